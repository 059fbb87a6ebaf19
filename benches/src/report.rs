//! The results, as rows of a table and as JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use serde::{Deserialize, Serialize};

use crate::statistics::Quartiles;

/// The unit of the measured values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// The time of a call.
    Nanoseconds,
    /// The calls per second of all tasks together.
    PerSecond,
    /// Memory.
    Bytes,
}

/// How the figure of a row is computed from the measured values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// The value of the subject divided by that of the reference.
    Ratio,
    /// The value of the reference divided by that of the subject.
    Speedup,
    /// The value of the subject minus that of the reference.
    Difference,
    /// The value of the subject.
    Value,
}

/// A bound for the figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// An upper bound.
    AtMost(f64),
    /// A lower bound.
    AtLeast(f64),
}

/// The measured values of a subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The name of the subject.
    pub name: String,
    /// Its values over the rounds.
    pub values: Quartiles,
}

/// A row of the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The operation, the store and the size of the state.
    pub benchmark: String,
    /// The unit of the measured values.
    pub unit: Unit,
    /// The subject: in most rows the library.
    pub subject: Measured,
    /// The subject that it is compared with, if any.
    pub reference: Option<Measured>,
    /// How the figure is computed.
    pub relation: Relation,
    /// The figure over the rounds.
    pub figure: Quartiles,
    /// The target, if any.
    pub target: Option<Target>,
    /// Whether the median of the figure meets the target.
    pub is_met: Option<bool>,
}

/// The name of a subject and its measured values, one per round.
pub type Rounds<'a> = (&'a str, &'a [f64]);

impl Row {
    /// Compares a subject with a reference round by round.
    pub fn compare(
        benchmark: impl Into<String>,
        unit: Unit,
        subject: Rounds,
        relation: Relation,
        reference: Rounds,
    ) -> Self {
        let figures: Vec<f64> = subject
            .1
            .iter()
            .zip(reference.1)
            .map(|(subject, reference)| relation.figure(*subject, *reference))
            .collect();
        Self {
            benchmark: benchmark.into(),
            unit,
            subject: Measured::new(subject),
            reference: Some(Measured::new(reference)),
            relation,
            figure: Quartiles::new(&figures),
            target: None,
            is_met: None,
        }
    }

    /// A subject without a reference.
    pub fn single(benchmark: impl Into<String>, unit: Unit, subject: Rounds) -> Self {
        let subject = Measured::new(subject);
        Self {
            benchmark: benchmark.into(),
            unit,
            figure: subject.values,
            subject,
            reference: None,
            relation: Relation::Value,
            target: None,
            is_met: None,
        }
    }

    /// Adds a target.
    pub fn target(mut self, target: Target) -> Self {
        self.is_met = Some(match target {
            Target::AtMost(bound) => self.figure.median <= bound,
            Target::AtLeast(bound) => self.figure.median >= bound,
        });
        self.target = Some(target);
        self
    }

    /// Formats a value of the figure.
    pub fn format_figure(&self, value: f64) -> String {
        match self.relation {
            Relation::Ratio => format!("{value:.2}"),
            Relation::Speedup => format!("{value:.1} ×"),
            Relation::Difference | Relation::Value => self.unit.format(value),
        }
    }

    /// Formats the target.
    pub fn format_target(&self) -> Option<String> {
        self.target.map(|target| match target {
            Target::AtMost(bound) => format!("≤ {}", self.format_figure(bound)),
            Target::AtLeast(bound) => format!("≥ {}", self.format_figure(bound)),
        })
    }

    /// Whether the target is met. It is uncertain if the target is between the
    /// quartiles.
    fn verdict(&self) -> &'static str {
        let Some((Target::AtMost(bound) | Target::AtLeast(bound), is_met)) = self.target.zip(self.is_met)
        else {
            return "";
        };
        match (is_met, (self.figure.lower..=self.figure.upper).contains(&bound)) {
            (true, false) => "yes",
            (true, true) => "yes, uncertain",
            (false, false) => "**no**",
            (false, true) => "**no**, uncertain",
        }
    }

    fn format_measured(&self, measured: &Measured) -> String {
        format!("{} {}", measured.name, self.unit.format(measured.values.median))
    }
}

impl Relation {
    fn figure(self, subject: f64, reference: f64) -> f64 {
        match self {
            Self::Ratio => subject / reference,
            Self::Speedup => reference / subject,
            Self::Difference => subject - reference,
            Self::Value => subject,
        }
    }
}

impl Measured {
    fn new((name, values): Rounds) -> Self {
        Self { name: name.to_owned(), values: Quartiles::new(values) }
    }
}

impl Unit {
    fn format(self, value: f64) -> String {
        match self {
            Self::Nanoseconds if value.abs() < 1e6 => format!("{} µs", three_digits(value / 1e3)),
            Self::Nanoseconds => format!("{} ms", three_digits(value / 1e6)),
            Self::PerSecond => format!("{value:.0}/s"),
            Self::Bytes => format!("{} MB", three_digits(value / f64::from(1 << 20))),
        }
    }
}

/// Formats a number with three digits, or with all digits before the point.
pub fn three_digits(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The machine and the server of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The model of the processors.
    pub processor: String,
    /// The number of processors.
    pub processors: usize,
    /// The load average of the last minute before the run. Above 0, other programs
    /// were running.
    pub load_before: f64,
    /// The version of the server.
    pub redis: String,
    /// Whether it was a quick run.
    pub quick: bool,
}

impl Machine {
    /// This machine before a run, with a server of this version.
    pub fn current(redis: String, quick: bool) -> Self {
        let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        Self {
            processor: model.unwrap_or("unknown processor").to_owned(),
            load_before: load
                .split_whitespace()
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(f64::NAN),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            redis,
            quick,
        }
    }
}

/// The rows as a Markdown table, padded so that its source is readable.
pub fn table(machine: &Machine, rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header([
        "benchmark",
        "subject",
        "reference",
        "figure",
        "quartiles",
        "target",
        "met",
    ]);
    for row in rows {
        let Quartiles { lower, median, upper } = row.figure;
        table.add_row([
            row.benchmark.clone(),
            row.format_measured(&row.subject),
            row.reference.as_ref().map_or(String::new(), |reference| row.format_measured(reference)),
            row.format_figure(median),
            format!("{} to {}", row.format_figure(lower), row.format_figure(upper)),
            row.format_target().unwrap_or_default(),
            row.verdict().to_owned(),
        ]);
    }
    let Machine { processor, processors, load_before, redis, quick } = machine;
    let quick = if *quick { ", quick run" } else { "" };
    format!(
        "{processors} processors ({processor}, load average {load_before} before the run), Redis {redis}{quick}.\n\n\
         {}\n",
        table.trim_fmt()
    )
}

/// Writes the machine and the rows as JSON.
///
/// # Errors
/// The file can't be written.
pub fn write_json(path: &Path, machine: &Machine, rows: &[Row]) -> Result<()> {
    #[derive(Serialize)]
    struct Report<'a> {
        machine: &'a Machine,
        rows: &'a [Row],
    }
    let text = serde_json::to_string_pretty(&Report { machine, rows })?;
    fs::write(path, text + "\n").with_context(|| path.display().to_string())
}

const BEGIN: &str = "<!-- begin generated -->\n";
const END: &str = "<!-- end generated -->\n";

/// Replaces the generated table in a file.
///
/// # Errors
/// The file can't be read or written, or has no marker for the table.
pub fn replace_table(path: &Path, table: &str) -> Result<()> {
    replace_between(path, BEGIN, table)
}

/// Replaces the generated table with this name in a file.
///
/// # Errors
/// As for [`replace_table`].
pub fn replace_named_table(path: &Path, name: &str, table: &str) -> Result<()> {
    replace_between(path, &begin_of(name), table)
}

/// The marker before the table with this name.
pub fn begin_of(name: &str) -> String {
    format!("<!-- begin generated: {name} -->\n")
}

fn replace_between(path: &Path, begin: &str, table: &str) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let parts = text.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) =
        parts.with_context(|| format!("{} lacks the marker {}", path.display(), begin.trim()))?;
    fs::write(path, format!("{before}{begin}{table}{END}{after}")).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::root;

    #[test]
    fn figures_are_computed_within_each_round() {
        // The second round was three times as slow for both.
        let row = Row::compare(
            "save",
            Unit::Nanoseconds,
            ("library", &[110.0, 330.0]),
            Relation::Ratio,
            ("native", &[100.0, 300.0]),
        );
        assert_eq!(row.format_figure(row.figure.lower), "1.10");
        assert_eq!(row.format_figure(row.figure.upper), "1.10");
        assert_eq!(row.clone().target(Target::AtMost(1.09)).verdict(), "**no**");
        assert_eq!(row.target(Target::AtMost(1.11)).verdict(), "yes");
    }

    #[test]
    fn a_target_between_the_quartiles_is_uncertain() {
        let rounds = [1.0, 2.0, 3.0, 4.0];
        let verdict =
            |target| Row::single("save", Unit::Bytes, ("library", &rounds)).target(target).verdict();
        assert_eq!(verdict(Target::AtMost(2.6)), "yes, uncertain");
        assert_eq!(verdict(Target::AtMost(2.4)), "**no**, uncertain");
        assert_eq!(verdict(Target::AtLeast(1.5)), "yes");
    }

    #[test]
    fn a_table_replaces_the_earlier_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("a\n{BEGIN}old\n{END}b\n")).unwrap();
        replace_table(file.path(), "new\n").unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), format!("a\n{BEGIN}new\n{END}b\n"));
        fs::write(file.path(), "no marker").unwrap();
        assert!(replace_table(file.path(), "new\n").is_err());
    }

    #[test]
    fn only_the_named_table_is_replaced() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = |b: &str| format!("{}old\n{END}\n{}{b}{END}", begin_of("a"), begin_of("b"));
        fs::write(file.path(), text("old\n")).unwrap();
        replace_named_table(file.path(), "b", "new\n").unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), text("new\n"));
        assert!(replace_named_table(file.path(), "c", "new\n").is_err());
    }

    #[test]
    fn the_page_has_the_columns_of_the_table() {
        let machine = Machine::current("7.0.15".to_owned(), false);
        let row = Row::single("save", Unit::Bytes, ("library", &[1.0]));
        let columns = |text: &str| -> Vec<String> {
            let header = text.lines().find(|line| line.starts_with("| ")).unwrap();
            header.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        let page = fs::read_to_string(root().join("PERFORMANCE.md")).unwrap();
        let (_, generated) = page.split_once(BEGIN).unwrap();
        assert_eq!(columns(generated), columns(&table(&machine, &[row])));
    }
}
