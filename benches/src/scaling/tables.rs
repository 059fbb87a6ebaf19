//! The tables of SCALING.md, which follow from the figures alone.

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

use super::population::{CHECKPOINTS, Form, KILOBYTE, Place, Population, SESSIONS, STATE_BYTES};
use super::{Cost, Effort, Figures, Measured, Operation};
use crate::report::{Machine, three_digits};
use crate::states::{MEDIUM, SMALL};
use crate::statistics::Spread;

/// How many tasks are at work where a processor is kept busy.
const BUSY: u32 = 64;

/// How many there are where one call comes after the other.
const ONE: u32 = 1;

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
        ("the run", run(figures)),
        ("a cluster", cluster(figures)),
        ("a shard", shard(figures)),
        ("memory", memory(figures)),
        ("operations", operations(figures)),
        ("one at a time", one_at_a_time(figures)),
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
        ("saves that look at all", saves_that_look_at_all(figures)),
        ("removals", removals(figures)),
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

/// Where and when it was measured, and how far the rounds of a figure differ.
fn run(figures: &Figures) -> String {
    let Figures { machine, date, effort, measured } = figures;
    let Machine { processor, processors, load_before, redis, quick } = machine;
    let quick = if *quick { ", a quick run" } else { "" };
    let costs = measured.iter().flat_map(|measured| &measured.costs);
    let differences: Vec<_> = costs
        .flat_map(|cost| [cost.host, cost.redis])
        .map(|spread| 100.0 * (spread.upper - spread.lower) / spread.median)
        .collect();
    let Spread { median, upper, .. } = Spread::of(&differences);
    let Effort { rounds, calls } = effort;
    format!(
        "Measured on {date}{quick}: {processors} processors ({processor}, load {load_before} before), Redis {redis}.\n\
         Figures are medians of {rounds} rounds of {calls} calls, fewer of those that take long. For half of the figures the\n\
         quartiles of the rounds are no more than {median:.0} % apart, for three quarters no more than {upper:.0} %.\n"
    )
}

/// How many operations a second a shard of the plan does.
struct Rate {
    by_redis: f64,
    by_network: f64,
}

impl Rate {
    fn of(cost: &Cost) -> Self {
        Self { by_redis: USE * 1e6 / cost.redis.median, by_network: NETWORK / cost.bytes }
    }

    fn reached(&self) -> f64 {
        self.by_redis.min(self.by_network)
    }

    fn held_back_by(&self) -> &'static str {
        if self.by_redis < self.by_network { "a core of Redis" } else { "the network" }
    }
}

/// What a cluster of some shards holds, and how many saves a second it takes.
fn cluster(figures: &Figures) -> String {
    let mut rows = Vec::new();
    for (name, population) in usual() {
        let Some(measured) = of(figures, population.at(Place::Cluster)) else { continue };
        let Some(save) = cost(measured, Operation::Save, BUSY) else { continue };
        let rate = Rate::of(save);
        for shards in SHARDS {
            let held = f64::from(shards) * SHARD_BYTES / measured.bytes_per_checkpoint;
            let saves = f64::from(shards) * rate.reached();
            rows.push(vec![
                name.to_owned(),
                shards.to_string(),
                thousands(held),
                thousands(held / SESSION),
                thousands(saves),
                rate.held_back_by().to_owned(),
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

/// How many saves or loads a second a shard does, and what holds it back.
fn shard(figures: &Figures) -> String {
    let mut rows = Vec::new();
    for (name, population) in usual() {
        for (words, population) in
            [("cluster, partitioned", population.at(Place::Cluster)), ("one server, llmfy", population)]
        {
            let Some(measured) = of(figures, population) else { continue };
            for operation in [Operation::Save, Operation::LoadLatest] {
                let Some(cost) = cost(measured, operation, BUSY) else { continue };
                let rate = Rate::of(cost);
                rows.push(vec![
                    name.to_owned(),
                    words.to_owned(),
                    operation.in_words().to_owned(),
                    thousands(rate.by_redis),
                    thousands(rate.by_network),
                    rate.held_back_by().to_owned(),
                ]);
            }
        }
    }
    let header =
        ["state", "store", "only", "a second by a core of Redis", "by the network", "so it is held back by"];
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
            ("partitioned, on a cluster", population.at(Place::Cluster)),
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

/// What operations cost where nobody else asks for something meanwhile.
fn one_at_a_time(figures: &Figures) -> String {
    let mut rows = Vec::new();
    for (name, population) in usual() {
        let Some(measured) = of(figures, population) else { continue };
        for operation in [Operation::Save, Operation::LoadLatest] {
            let costs = [BUSY, ONE].map(|tasks| cost(measured, operation, tasks));
            let [Some(busy), Some(one)] = costs else { continue };
            rows.push(vec![
                name.to_owned(),
                operation.in_words().to_owned(),
                three_digits(busy.host.median),
                three_digits(busy.redis.median),
                three_digits(one.host.median),
                three_digits(one.redis.median),
            ]);
        }
    }
    let header =
        ["state", "operation", "64 at once: host, µs", "Redis, µs", "one at a time: host, µs", "Redis, µs"];
    written(&header, rows)
}

/// What a save and a load cost where it is stored otherwise.
fn places(figures: &Figures) -> String {
    let mut rows = Vec::new();
    for (name, population) in usual() {
        for (words, population) in [
            ("one server, llmfy", population),
            ("one server, llmfy, with a ttl", population.form(Form::Expiring)),
            ("one server, llmfy, compressed", population.form(Form::Compressed)),
            ("one server, partitioned", population.partitioned()),
            ("three masters, partitioned", population.at(Place::Cluster)),
            ("with a replica, llmfy", population.at(Place::WithReplica)),
            ("`replicas=1`, llmfy", population.at(Place::Replicated)),
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

/// What some operations cost that are about all of a session, as sessions get
/// longer: how long they are, the layout, and the cost.
fn of_sessions<'a>(figures: &'a Figures, operations: &[Operation]) -> Vec<(u32, &'static str, &'a Cost)> {
    let mut found = Vec::new();
    for checkpoints in CHECKPOINTS {
        let population = Population::of_checkpoints(checkpoints);
        for (layout, population) in [
            ("llmfy", population),
            ("partitioned", population.partitioned()),
            ("llmfy", population.form(Form::Expiring)),
        ] {
            let costs = of(figures, population).map_or(&[][..], |measured| &measured.costs);
            let costs = costs.iter().filter(|cost| operations.contains(&cost.operation));
            found.extend(costs.map(|cost| (checkpoints, layout, cost)));
        }
    }
    found
}

/// What saves cost that look at all of the session.
fn saves_that_look_at_all(figures: &Figures) -> String {
    let row = |(checkpoints, layout, cost): (u32, &str, &Cost)| {
        vec![
            checkpoints.to_string(),
            layout.to_owned(),
            cost.operation.in_words().to_owned(),
            three_digits(cost.host.median),
            three_digits(cost.redis.median),
            three_digits(cost.redis.median / f64::from(checkpoints)),
        ]
    };
    let rows = of_sessions(figures, &Operation::OF_ALL).into_iter().map(row).collect();
    let header = [
        "checkpoints each",
        "layout",
        "operation",
        "host, µs",
        "Redis, µs",
        "Redis, µs per checkpoint there",
    ];
    written(&header, rows)
}

/// What it costs to remove many checkpoints.
fn removals(figures: &Figures) -> String {
    let row = |(checkpoints, layout, cost): (u32, &str, &Cost)| {
        vec![
            checkpoints.to_string(),
            layout.to_owned(),
            cost.operation.in_words().to_owned(),
            three_digits(cost.host.median),
            three_digits(cost.redis.median),
        ]
    };
    let rows = of_sessions(figures, &Operation::REMOVALS).into_iter().map(row).collect();
    let header =
        ["checkpoints each", "layout", "operation", "per checkpoint: host, µs", "per checkpoint: Redis, µs"];
    written(&header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Always the same.
    fn always(median: f64) -> Spread {
        Spread { lower: median, median, upper: median }
    }

    fn costs(operation: Operation, tasks: u32, host: f64, redis: f64, bytes: f64) -> Cost {
        Cost { operation, tasks, count: 1, host: always(host), redis: always(redis), bytes }
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

    /// The cells of the rows of a table.
    fn cells(table: &str) -> Vec<Vec<&str>> {
        let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
        rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
    }

    #[test]
    fn a_cluster_has_so_many_times_what_its_own_shards_have() {
        let small = Population::of(SMALL.bytes);
        // Twelve gigabytes are 12,884,901,888 bytes: four million of these in a shard.
        let cluster_of_three = Measured {
            population: small.at(Place::Cluster),
            bytes_per_checkpoint: 3221.225472,
            // A core does 0.6 / 30 µs = 20,000 a second, the network 0.75 GB / 3 KB = 250,000.
            costs: vec![costs(Operation::Save, 64, 50.0, 30.0, 3000.0)],
        };
        // On one server it is cheaper, of which the table must know nothing.
        let one_server = Measured {
            population: small.partitioned(),
            bytes_per_checkpoint: 1000.0,
            costs: vec![costs(Operation::Save, 64, 5.0, 3.0, 300.0)],
        };
        let table = cluster(&figures(vec![one_server, cluster_of_three]));
        let rows = cells(&table);
        assert_eq!(rows.len(), SHARDS.len());
        // 12 million in sessions of 100; 60,000 saves of 50 µs are three cores, and 200 seconds fill it.
        let of_three_shards = [
            "2 KB",
            "3",
            "12.0 million",
            "120 thousand",
            "60 thousand",
            "a core of Redis",
            "3.00",
            "3.3 minutes",
        ];
        assert_eq!(rows[1], of_three_shards);
    }

    #[test]
    fn a_shard_is_held_back_by_what_is_reached_first() {
        let measured = Measured {
            population: Population::of(MEDIUM.bytes),
            bytes_per_checkpoint: 60_000.0,
            costs: vec![
                costs(Operation::Save, 64, 100.0, 150.0, 50_000.0),
                costs(Operation::LoadLatest, 64, 80.0, 24.0, 50_000.0),
            ],
        };
        let table = shard(&figures(vec![measured]));
        let save = ["50 KB", "one server, llmfy", "save", "4000", "15 thousand", "a core of Redis"];
        let load = ["50 KB", "one server, llmfy", "load latest", "25 thousand", "15 thousand", "the network"];
        assert_eq!(cells(&table), [save, load]);
    }

    #[test]
    fn a_save_that_looks_at_all_is_divided_by_what_is_there() {
        let measured = Measured {
            population: Population::of_checkpoints(1000),
            bytes_per_checkpoint: 2000.0,
            costs: vec![
                costs(Operation::SaveWithinLimit, 1, 3000.0, 6000.0, 0.0),
                costs(Operation::ClearAll, 1, 6.0, 16.0, 0.0),
            ],
        };
        let figures = figures(vec![measured]);
        let save = ["1000", "llmfy", "save at `max_checkpoints`", "3000", "6000", "6.00"];
        assert_eq!(cells(&saves_that_look_at_all(&figures)), [save]);
        assert_eq!(cells(&removals(&figures)), [["1000", "llmfy", "clear-all", "6.00", "16.0"]]);
    }

    #[test]
    fn the_run_says_how_far_its_rounds_differ() {
        let mut cost = costs(Operation::Save, 64, 50.0, 30.0, 3000.0);
        cost.host = Spread { lower: 45.0, median: 50.0, upper: 55.0 };
        let population = Population::of(SMALL.bytes);
        let measured = Measured { population, bytes_per_checkpoint: 3000.0, costs: vec![cost] };
        // 20 % for the host, none for Redis.
        assert_eq!(
            run(&figures(vec![measured])),
            "Measured on 2026-01-31: 2 processors (a processor, load 0.5 before), Redis 7.0.15.\n\
             Figures are medians of 5 rounds of 1280 calls, fewer of those that take long. For half of the figures the\n\
             quartiles of the rounds are no more than 10 % apart, for three quarters no more than 15 %.\n"
        );
    }
}
