//! The tables of SCALING.md, computed from the figures alone.

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

use super::population::{CHECKPOINTS, Form, KILOBYTE, Population, SESSIONS, STATE_BYTES, Topology};
use super::{Cost, Effort, Figures, Measured, Operation};
use crate::report::{Machine, three_digits};
use crate::states::{MEDIUM, SMALL};
use crate::statistics::Quartiles;

/// The number of tasks in a concurrent measurement.
const CONCURRENT: u32 = 64;

/// The number of tasks in a sequential measurement.
const SEQUENTIAL: u32 = 1;

/// The memory of a planned shard that may be used: three quarters of 16 GiB.
const SHARD_BYTES: f64 = 16.0 * 1024.0 * 1024.0 * 1024.0 * 0.75;

/// The part of a Redis core that may be used.
const CORE_USE: f64 = 0.6;

/// The network capacity of a planned shard that may be used: 60 % of 10 Gbit/s, in
/// bytes per second.
const NETWORK: f64 = 10e9 / 8.0 * 0.6;

/// The number of checkpoints in a planned session.
const SESSION: f64 = 100.0;

/// The planned numbers of shards.
const SHARDS: [u32; 5] = [1, 3, 6, 12, 48];

/// A row of a table, from values of different types.
macro_rules! row {
    ($($cell:expr),* $(,)?) => { vec![$($cell.to_string()),*] };
}

/// A label for the variants of a population.
type Variant = (&'static str, fn(Population) -> Population);

/// All tables with the names of their markers in SCALING.md.
pub fn all(figures: &Figures) -> Vec<(&'static str, String)> {
    let sessions = SESSIONS.map(|it| (it.to_string(), Population::with_sessions(it)));
    let checkpoints = CHECKPOINTS.map(|it| (it.to_string(), Population::with_checkpoints(it)));
    let states = STATE_BYTES.map(|it| (format!("{} KB", it / KILOBYTE), Population::new(it)));
    vec![
        ("run", run(figures)),
        ("clusters", clusters(figures)),
        ("shard", shard(figures)),
        ("memory", memory(figures)),
        ("operations", operations(figures)),
        ("concurrency", concurrency(figures)),
        ("stores", stores(figures)),
        ("sessions", growth(figures, "sessions", &sessions)),
        ("checkpoints", growth(figures, "checkpoints per session", &checkpoints)),
        ("states", growth(figures, "state", &states)),
        ("whole-session saves", whole_session_saves(figures)),
        ("deletions", deletions(figures)),
    ]
}

fn find(figures: &Figures, population: Population) -> Option<&Measured> {
    figures.measured.iter().find(|measured| measured.population == population)
}

fn cost(measured: &Measured, operation: Operation, tasks: u32) -> Option<&Cost> {
    measured.costs.iter().find(|cost| cost.operation == operation && cost.tasks == tasks)
}

fn format(header: &[&str], rows: Vec<Vec<String>>) -> String {
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

/// The rows of each measured variant, for small and for medium states. The name of
/// the size precedes the cells.
fn rows_by_size(
    figures: &Figures,
    variants: &[Variant],
    cells: impl Fn(&'static str, &Measured) -> Vec<Vec<String>>,
) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for size in [SMALL, MEDIUM] {
        for (label, variant) in variants {
            let Some(measured) = find(figures, variant(Population::new(size.bytes))) else { continue };
            for mut row in cells(label, measured) {
                row.insert(0, size.name.to_owned());
                rows.push(row);
            }
        }
    }
    rows
}

/// The machine and the date of the run, and the spread between its rounds.
fn run(figures: &Figures) -> String {
    let Figures { machine, date, effort, measured } = figures;
    let Machine { processor, processors, load_before, redis, quick } = machine;
    let quick = if *quick { ", quick run" } else { "" };
    let costs = measured.iter().flat_map(|measured| &measured.costs);
    let spreads: Vec<_> = costs
        .flat_map(|cost| [cost.host, cost.redis])
        .map(|quartiles| 100.0 * (quartiles.upper - quartiles.lower) / quartiles.median)
        .collect();
    let Quartiles { median, upper, .. } = Quartiles::new(&spreads);
    let Effort { rounds, calls } = effort;
    format!(
        "Measured on {date}{quick}: {processors} processors ({processor}, load average {load_before} before the run), \
         Redis {redis}.\n\
         Each figure is the median of {rounds} rounds of {calls} calls; slow operations have fewer calls. The quartiles of the\n\
         rounds are at most {median:.0} % apart for half of the figures, and at most {upper:.0} % for three quarters of them.\n"
    )
}

/// The operations per second of a planned shard.
struct Rate {
    by_redis: f64,
    by_network: f64,
}

impl Rate {
    fn new(cost: &Cost) -> Self {
        Self { by_redis: CORE_USE * 1e6 / cost.redis.median, by_network: NETWORK / cost.bytes }
    }

    fn per_second(&self) -> f64 {
        self.by_redis.min(self.by_network)
    }

    fn bottleneck(&self) -> &'static str {
        if self.by_redis < self.by_network { "Redis core" } else { "network" }
    }
}

/// The capacity of clusters and the saves per second that they accept.
fn clusters(figures: &Figures) -> String {
    let rows = rows_by_size(figures, &[("", |it| it.on(Topology::Cluster))], |_, measured| {
        let Some(save) = cost(measured, Operation::Save, CONCURRENT) else { return Vec::new() };
        let rate = Rate::new(save);
        let row = |shards: u32| {
            let capacity = f64::from(shards) * SHARD_BYTES / measured.bytes_per_checkpoint;
            let saves = f64::from(shards) * rate.per_second();
            row![
                shards,
                thousands(capacity),
                thousands(capacity / SESSION),
                thousands(saves),
                rate.bottleneck(),
                three_digits(saves * save.host.median / 1e6),
                duration(capacity / saves),
            ]
        };
        SHARDS.map(row).to_vec()
    });
    let header = [
        "state",
        "shards",
        "checkpoints",
        "sessions",
        "saves per second",
        "bottleneck",
        "host cores",
        "memory is full after",
    ];
    format(&header, rows)
}

/// The saves or loads per second of one shard.
fn shard(figures: &Figures) -> String {
    let variants: [Variant; 2] =
        [("cluster, partitioned", |it| it.on(Topology::Cluster)), ("one server, llmfy", |it| it)];
    let rows = rows_by_size(figures, &variants, |store, measured| {
        let row = |operation: Operation| {
            let rate = Rate::new(cost(measured, operation, CONCURRENT)?);
            let (by_redis, by_network) = (thousands(rate.by_redis), thousands(rate.by_network));
            Some(row![store, operation.name(), by_redis, by_network, rate.bottleneck()])
        };
        [Operation::Save, Operation::Latest].into_iter().filter_map(row).collect()
    });
    let header = [
        "state",
        "store",
        "operation",
        "per second by a Redis core",
        "per second by the network",
        "bottleneck",
    ];
    format(&header, rows)
}

fn duration(seconds: f64) -> String {
    if seconds < 5400.0 {
        format!("{:.1} minutes", seconds / 60.0)
    } else {
        format!("{:.1} hours", seconds / 3600.0)
    }
}

/// The memory of a checkpoint.
fn memory(figures: &Figures) -> String {
    let variants: [Variant; 5] = [
        ("llmfy", |it| it),
        ("llmfy, with TTL", |it| it.form(Form::Expiring)),
        ("llmfy, compressed", |it| it.form(Form::Compressed)),
        ("partitioned", Population::partitioned),
        ("partitioned, on a cluster", |it| it.on(Topology::Cluster)),
    ];
    let rows = rows_by_size(figures, &variants, |layout, measured| {
        let bytes = measured.bytes_per_checkpoint;
        let overhead = bytes - measured.population.state_bytes as f64;
        vec![row![layout, format!("{bytes:.0}"), format!("{overhead:+.0}"), thousands(SHARD_BYTES / bytes)]]
    });
    format(&["state", "layout", "bytes", "overhead", "checkpoints in 12 GiB"], rows)
}

/// The cost of the operations, and the operations per second of a core.
fn operations(figures: &Figures) -> String {
    let rows = rows_by_size(figures, &[("", |it| it)], |_, measured| {
        let row = |cost: &Cost| {
            row![
                cost.operation.name(),
                three_digits(cost.host.median),
                three_digits(cost.redis.median),
                thousands(1e6 / cost.host.median),
                thousands(1e6 / cost.redis.median),
                thousands(cost.bytes),
            ]
        };
        measured.costs.iter().filter(|cost| cost.tasks == CONCURRENT).map(row).collect()
    });
    let header = [
        "state",
        "operation",
        "host, µs",
        "Redis, µs",
        "per second and host core",
        "per second and Redis core",
        "network bytes",
    ];
    format(&header, rows)
}

/// The cost of concurrent and of sequential operations.
fn concurrency(figures: &Figures) -> String {
    let rows = rows_by_size(figures, &[("", |it| it)], |_, measured| {
        let row = |operation: Operation| {
            let concurrent = cost(measured, operation, CONCURRENT)?;
            let sequential = cost(measured, operation, SEQUENTIAL)?;
            Some(row![
                operation.name(),
                three_digits(concurrent.host.median),
                three_digits(concurrent.redis.median),
                three_digits(sequential.host.median),
                three_digits(sequential.redis.median),
            ])
        };
        [Operation::Save, Operation::Latest].into_iter().filter_map(row).collect()
    });
    let header = [
        "state",
        "operation",
        "64 at once: host, µs",
        "64 at once: Redis, µs",
        "one at a time: host, µs",
        "one at a time: Redis, µs",
    ];
    format(&header, rows)
}

/// The cost of a save and a load with other stores and options.
fn stores(figures: &Figures) -> String {
    let variants: [Variant; 7] = [
        ("one server, llmfy", |it| it),
        ("one server, llmfy, with TTL", |it| it.form(Form::Expiring)),
        ("one server, llmfy, compressed", |it| it.form(Form::Compressed)),
        ("one server, partitioned", Population::partitioned),
        ("three masters, partitioned", |it| it.on(Topology::Cluster)),
        ("with a replica, llmfy", |it| it.on(Topology::WithReplica)),
        ("`replicas=1`, llmfy", |it| it.on(Topology::Replicated)),
    ];
    let rows = rows_by_size(figures, &variants, |store, measured| {
        let costs = [Operation::Save, Operation::Latest].map(|it| cost(measured, it, CONCURRENT));
        let [Some(save), Some(latest)] = costs else { return Vec::new() };
        vec![row![
            store,
            three_digits(save.host.median),
            three_digits(save.redis.median),
            three_digits(latest.host.median),
            three_digits(latest.redis.median),
        ]]
    });
    let header =
        ["state", "store", "save: host, µs", "save: Redis, µs", "latest: host, µs", "latest: Redis, µs"];
    format(&header, rows)
}

/// The costs of the bounded operations, host and Redis, in growing populations.
fn growth(figures: &Figures, dimension: &str, populations: &[(String, Population)]) -> String {
    let mut rows = Vec::new();
    for (size, population) in populations {
        let Some(measured) = find(figures, *population) else { continue };
        let mut row = vec![size.clone()];
        for operation in Operation::BOUNDED {
            row.push(cost(measured, operation, CONCURRENT).map_or(String::new(), |cost| {
                format!("{} + {}", three_digits(cost.host.median), three_digits(cost.redis.median))
            }));
        }
        rows.push(row);
    }
    let mut header = vec![dimension];
    header.extend(Operation::BOUNDED.map(Operation::name));
    format(&header, rows)
}

/// The costs of some operations in populations with longer sessions: the number of
/// checkpoints per session, the layout and the cost.
fn by_session_length<'a>(
    figures: &'a Figures,
    operations: &[Operation],
) -> Vec<(u32, &'static str, &'a Cost)> {
    let mut found = Vec::new();
    for checkpoints in CHECKPOINTS {
        let population = Population::with_checkpoints(checkpoints);
        for (layout, population) in [
            ("llmfy", population),
            ("partitioned", population.partitioned()),
            ("llmfy", population.form(Form::Expiring)),
        ] {
            let costs = find(figures, population).map_or(&[][..], |measured| &measured.costs);
            let costs = costs.iter().filter(|cost| operations.contains(&cost.operation));
            found.extend(costs.map(|cost| (checkpoints, layout, cost)));
        }
    }
    found
}

/// The cost of saves that read all checkpoints of the session.
fn whole_session_saves(figures: &Figures) -> String {
    let row = |(checkpoints, layout, cost): (u32, &str, &Cost)| {
        row![
            checkpoints,
            layout,
            cost.operation.name(),
            three_digits(cost.host.median),
            three_digits(cost.redis.median),
            three_digits(cost.redis.median / f64::from(checkpoints)),
        ]
    };
    let rows = by_session_length(figures, &Operation::WHOLE_SESSION).into_iter().map(row).collect();
    let header = [
        "checkpoints per session",
        "layout",
        "operation",
        "host, µs",
        "Redis, µs",
        "Redis, µs per existing checkpoint",
    ];
    format(&header, rows)
}

/// The cost of deleting many checkpoints.
fn deletions(figures: &Figures) -> String {
    let row = |(checkpoints, layout, cost): (u32, &str, &Cost)| {
        let (host, redis) = (three_digits(cost.host.median), three_digits(cost.redis.median));
        row![checkpoints, layout, cost.operation.name(), host, redis]
    };
    let rows = by_session_length(figures, &Operation::DELETIONS).into_iter().map(row).collect();
    let header = [
        "checkpoints per session",
        "layout",
        "operation",
        "host, µs per checkpoint",
        "Redis, µs per checkpoint",
    ];
    format(&header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::root;
    use crate::report::begin_of;

    fn constant(value: f64) -> Quartiles {
        Quartiles { lower: value, median: value, upper: value }
    }

    fn cost_of(operation: Operation, tasks: u32, host: f64, redis: f64, bytes: f64) -> Cost {
        Cost { operation, tasks, count: 1, host: constant(host), redis: constant(redis), bytes }
    }

    fn figures(measured: Vec<Measured>) -> Figures {
        let machine = Machine {
            processor: "a processor".to_owned(),
            processors: 2,
            load_before: 0.5,
            redis: "7.0.15".to_owned(),
            quick: false,
        };
        Figures {
            machine,
            date: "2026-01-31".to_owned(),
            effort: Effort { rounds: 5, calls: 1280 },
            measured,
        }
    }

    /// The cells of a table, the header first.
    fn cells(table: &str) -> Vec<Vec<&str>> {
        let rows = table.lines().filter(|line| line.starts_with("| "));
        rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
    }

    #[test]
    fn a_cluster_has_the_capacity_of_its_shards_times_their_number() {
        let small = Population::new(SMALL.bytes);
        // 12 GiB are 12,884,901,888 bytes: a shard holds four million checkpoints.
        let cluster = Measured {
            population: small.on(Topology::Cluster),
            bytes_per_checkpoint: 3221.225472,
            // A core makes 0.6 / 30 µs = 20,000 saves per second; the network carries
            // 0.75 GB / 3 KB = 250,000.
            costs: vec![cost_of(Operation::Save, 64, 50.0, 30.0, 3000.0)],
        };
        // One server is cheaper, and must not be used for the table.
        let one_server = Measured {
            population: small.partitioned(),
            bytes_per_checkpoint: 1000.0,
            costs: vec![cost_of(Operation::Save, 64, 5.0, 3.0, 300.0)],
        };
        let table = clusters(&figures(vec![one_server, cluster]));
        let rows = cells(&table);
        assert_eq!(rows.len(), 1 + SHARDS.len());
        // 60,000 saves of 50 µs need three cores and fill the memory in 200 s.
        let three_shards =
            ["2 KB", "3", "12.0 million", "120 thousand", "60 thousand", "Redis core", "3.00", "3.3 minutes"];
        assert_eq!(rows[2], three_shards);
    }

    #[test]
    fn the_bottleneck_of_a_shard_is_the_lower_rate() {
        let measured = Measured {
            population: Population::new(MEDIUM.bytes),
            bytes_per_checkpoint: 60_000.0,
            costs: vec![
                cost_of(Operation::Save, 64, 100.0, 150.0, 50_000.0),
                cost_of(Operation::Latest, 64, 80.0, 24.0, 50_000.0),
            ],
        };
        let table = shard(&figures(vec![measured]));
        let save = ["50 KB", "one server, llmfy", "save", "4000", "15 thousand", "Redis core"];
        let latest = ["50 KB", "one server, llmfy", "latest", "25 thousand", "15 thousand", "network"];
        assert_eq!(cells(&table)[1..], [save, latest]);
    }

    #[test]
    fn the_cost_of_a_whole_session_save_is_divided_by_the_existing_checkpoints() {
        let measured = Measured {
            population: Population::with_checkpoints(1000),
            bytes_per_checkpoint: 2000.0,
            costs: vec![
                cost_of(Operation::SaveAtLimit, 1, 3000.0, 6000.0, 0.0),
                cost_of(Operation::ClearAll, 1, 6.0, 16.0, 0.0),
            ],
        };
        let figures = figures(vec![measured]);
        let save = ["1000", "llmfy", "save at `max_checkpoints`", "3000", "6000", "6.00"];
        assert_eq!(cells(&whole_session_saves(&figures))[1..], [save]);
        assert_eq!(cells(&deletions(&figures))[1..], [["1000", "llmfy", "clear all", "6.00", "16.0"]]);
    }

    #[test]
    fn the_run_states_the_spread_between_its_rounds() {
        let mut cost = cost_of(Operation::Save, 64, 50.0, 30.0, 3000.0);
        cost.host = Quartiles { lower: 45.0, median: 50.0, upper: 55.0 };
        let population = Population::new(SMALL.bytes);
        let measured = Measured { population, bytes_per_checkpoint: 3000.0, costs: vec![cost] };
        // 20 % for the host, 0 % for Redis.
        assert_eq!(
            run(&figures(vec![measured])),
            "Measured on 2026-01-31: 2 processors (a processor, load average 0.5 before the run), Redis 7.0.15.\n\
             Each figure is the median of 5 rounds of 1280 calls; slow operations have fewer calls. The quartiles of the\n\
             rounds are at most 10 % apart for half of the figures, and at most 15 % for three quarters of them.\n"
        );
    }

    #[test]
    fn the_page_has_the_columns_of_all_tables() {
        let page = std::fs::read_to_string(root().join("SCALING.md")).unwrap();
        for (name, table) in all(&figures(Vec::new())) {
            let (_, generated) =
                page.split_once(&begin_of(name)).unwrap_or_else(|| panic!("no table {name}"));
            let (generated, _) = generated.split_once("<!-- end generated -->").unwrap();
            assert_eq!(cells(generated).first(), cells(&table).first(), "{name}");
        }
    }
}
