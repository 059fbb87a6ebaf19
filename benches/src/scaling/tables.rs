//! The tables of SCALING.md, which follow from the figures alone.

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

use super::population::{CHECKPOINTS, Form, KILOBYTE, Place, Population, SESSIONS, STATE_BYTES};
use super::{Cost, Figures, Measured, Operation};
use crate::report::three_digits;
use crate::states::{MEDIUM, SMALL};

/// How many tasks are at work where a processor is kept busy.
const BUSY: u32 = 64;

/// How much memory a shard of the plan has, and how much of it may be used.
const SHARD_BYTES: f64 = 16.0 * 1024.0 * 1024.0 * 1024.0 * 0.75;

/// How much of a core of Redis may be used.
const USE: f64 = 0.6;

/// How much the network of a shard of the plan carries, in bytes a second.
const NETWORK: f64 = 10e9 / 8.0 * 0.6;

/// How many checkpoints a session of the plan has.
const SESSION: f64 = 100.0;

/// Shards of the plan.
const SHARDS: [u32; 5] = [1, 3, 6, 12, 48];

/// All tables, each with the name that its place in SCALING.md has.
pub fn all(figures: &Figures) -> Vec<(&'static str, String)> {
    vec![
        ("a cluster", cluster(figures)),
        ("memory", memory(figures)),
        ("operations", operations(figures)),
        ("places", places(figures)),
        (
            "sessions",
            growth(figures, "sessions", &SESSIONS.map(|it| (it.to_string(), Population::of_sessions(it)))),
        ),
        (
            "checkpoints",
            growth(
                figures,
                "checkpoints each",
                &CHECKPOINTS.map(|it| (it.to_string(), Population::of_checkpoints(it))),
            ),
        ),
        (
            "states",
            growth(
                figures,
                "state",
                &STATE_BYTES.map(|it| (format!("{} KB", it / KILOBYTE), Population::of(it))),
            ),
        ),
        ("many at once", many_at_once(figures)),
    ]
}

fn of(figures: &Figures, population: Population) -> Option<&Measured> {
    figures.measured.iter().find(|measured| measured.population == population)
}

fn cost(measured: &Measured, operation: Operation, tasks: u32) -> Option<&Cost> {
    measured.costs.iter().find(|cost| cost.operation == operation && cost.tasks == tasks)
}

fn written(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    format!("\n{table}\n\n")
}

fn thousands(number: f64) -> String {
    match number {
        0.0..1e4 => format!("{number:.0}"),
        1e4..1e6 => format!("{:.0} thousand", number / 1e3),
        1e6..1e9 => format!("{} million", three_digits(number / 1e6)),
        _ => format!("{} billion", three_digits(number / 1e9)),
    }
}

/// The two sizes that plans are made for.
fn usual() -> [(&'static str, Population); 2] {
    [SMALL, MEDIUM].map(|size| (size.name, Population::of(size.bytes)))
}

/// What a cluster of some shards holds, and how many saves a second it takes.
fn cluster(figures: &Figures) -> String {
    let mut rows = Vec::new();
    for (name, population) in usual() {
        let Some(partitioned) = of(figures, population.partitioned()) else { continue };
        let Some(save) =
            of(figures, population.at(Place::Cluster)).and_then(|it| cost(it, Operation::Save, BUSY))
        else {
            continue;
        };
        let (by_redis, by_network) = (USE * 1e6 / save.redis.median, NETWORK / save.bytes);
        let of_a_shard = by_redis.min(by_network);
        for shards in SHARDS {
            let held = f64::from(shards) * SHARD_BYTES / partitioned.bytes_per_checkpoint;
            let saves = f64::from(shards) * of_a_shard;
            rows.push(vec![
                name.to_owned(),
                shards.to_string(),
                thousands(held),
                thousands(held / SESSION),
                thousands(saves),
                if by_redis < by_network { "a core of Redis" } else { "the network" }.to_owned(),
                three_digits(saves * save.host.median / 1e6),
                hours(held / saves),
            ]);
        }
    }
    let header = [
        "state",
        "shards",
        "checkpoints",
        "sessions",
        "saves a second",
        "held back by",
        "cores of hosts",
        "memory is full after",
    ];
    written(&header, rows)
}

fn hours(seconds: f64) -> String {
    if seconds < 5400.0 {
        format!("{:.1} minutes", seconds / 60.0)
    } else {
        format!("{:.1} hours", seconds / 3600.0)
    }
}

/// What a checkpoint takes of memory.
fn memory(figures: &Figures) -> String {
    let mut rows = Vec::new();
    for (name, population) in usual() {
        for (words, population) in [
            ("llmfy", population),
            ("llmfy, with a ttl", population.form(Form::Expiring)),
            ("llmfy, compressed", population.form(Form::Compressed)),
            ("partitioned", population.partitioned()),
        ] {
            let Some(measured) = of(figures, population) else { continue };
            let bytes = measured.bytes_per_checkpoint;
            rows.push(vec![
                name.to_owned(),
                words.to_owned(),
                format!("{bytes:.0}"),
                format!("{:+.0}", bytes - population.state_bytes as f64),
                thousands(SHARD_BYTES / bytes),
            ]);
        }
    }
    written(&["state", "layout", "bytes", "over the state", "in 12 GiB"], rows)
}

/// What the operations cost, and how many a core does in a second.
fn operations(figures: &Figures) -> String {
    let mut rows = Vec::new();
    for (name, population) in usual() {
        let Some(measured) = of(figures, population) else { continue };
        for cost in measured.costs.iter().filter(|cost| cost.tasks == BUSY) {
            rows.push(vec![
                name.to_owned(),
                cost.operation.in_words().to_owned(),
                three_digits(cost.host.median),
                three_digits(cost.redis.median),
                thousands(1e6 / cost.host.median),
                thousands(1e6 / cost.redis.median),
                thousands(cost.bytes),
            ]);
        }
    }
    let header = [
        "state",
        "operation",
        "host, µs",
        "Redis, µs",
        "a second and core of the host",
        "of Redis",
        "bytes on the network",
    ];
    written(&header, rows)
}

/// What a save costs where it is stored otherwise.
fn places(figures: &Figures) -> String {
    let mut rows = Vec::new();
    for (name, population) in usual() {
        for (words, population) in [
            ("one server, llmfy", population),
            ("one server, partitioned", population.partitioned()),
            ("three masters, partitioned", population.at(Place::Cluster)),
            ("with a replica", population.at(Place::WithReplica)),
            ("`replicas=1`", population.at(Place::Replicated)),
        ] {
            let Some(measured) = of(figures, population) else { continue };
            let costs = [Operation::Save, Operation::LoadLatest].map(|it| cost(measured, it, BUSY));
            let [Some(save), Some(load)] = costs else { continue };
            rows.push(vec![
                name.to_owned(),
                words.to_owned(),
                three_digits(save.host.median),
                three_digits(save.redis.median),
                three_digits(load.host.median),
                three_digits(load.redis.median),
            ]);
        }
    }
    let header = ["state", "store", "save: host, µs", "Redis, µs", "load latest: host, µs", "Redis, µs"];
    written(&header, rows)
}

/// What the operations cost as something grows: host and Redis.
fn growth(figures: &Figures, what: &str, grown: &[(String, Population)]) -> String {
    let mut rows = Vec::new();
    for (size, population) in grown {
        let Some(measured) = of(figures, *population) else { continue };
        let mut row = vec![size.clone()];
        for operation in Operation::SINGLE {
            row.push(cost(measured, operation, BUSY).map_or(String::new(), |cost| {
                format!("{} + {}", three_digits(cost.host.median), three_digits(cost.redis.median))
            }));
        }
        rows.push(row);
    }
    let mut header = vec![what];
    header.extend(Operation::SINGLE.map(Operation::in_words));
    written(&header, rows)
}

/// What operations cost that are about many checkpoints, as sessions get longer.
fn many_at_once(figures: &Figures) -> String {
    let mut rows = Vec::new();
    for checkpoints in CHECKPOINTS {
        let population = Population::of_checkpoints(checkpoints);
        for (layout, population) in [
            ("llmfy", population),
            ("partitioned", population.partitioned()),
            ("llmfy", population.form(Form::Expiring)),
        ] {
            let Some(measured) = of(figures, population) else { continue };
            for operation in population.others() {
                let Some(cost) = measured.costs.iter().find(|cost| cost.operation == *operation) else {
                    continue;
                };
                rows.push(vec![
                    checkpoints.to_string(),
                    layout.to_owned(),
                    operation.in_words().to_owned(),
                    three_digits(cost.host.median),
                    three_digits(cost.redis.median),
                ]);
            }
        }
    }
    written(&["checkpoints each", "layout", "operation", "host, µs", "Redis, µs"], rows)
}
