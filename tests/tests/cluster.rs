//! A Redis Cluster of three masters with a replica each: slots that move, and
//! masters that die. It passes the whole contract in `contract.rs`.
