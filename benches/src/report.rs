//! The figures, as rows of a table and as JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use serde::{Deserialize, Serialize};

use crate::statistics::Spread;

/// What is measured of each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// The time of a call.
    Nanoseconds,
    /// Calls of all tasks together.
    PerSecond,
    /// Memory.
    Bytes,
}

/// How the figure of a row comes from the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// Ours divided by the other's.
    Ratio,
    /// The other's divided by ours: how many times as fast.
    TimesAsFast,
    /// Ours minus the other's.
    Difference,
    /// Ours alone.
    Ours,
}

/// What the figure should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less.
    AtLeast(f64),
}

/// One of those who are compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    /// Who.
    pub name: String,
    /// What it measured, over the rounds.
    pub measured: Spread,
}

/// A row of the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What was done, and on what.
    pub work: String,
    /// What the sides are measured in.
    pub unit: Unit,
    /// The library.
    pub ours: Side,
    /// The other, if there is one.
    pub other: Option<Side>,
    /// How the figure comes about.
    pub relation: Relation,
    /// The figure, over the rounds.
    pub figure: Spread,
    /// What it should be, if there is a target.
    pub target: Option<Target>,
    /// Whether it is.
    pub is_met: Option<bool>,
}

/// What was measured of one side, round by round.
pub type Rounds<'a> = (&'a str, &'a [f64]);

impl Finding {
    /// Compares two sides round by round.
    pub fn between(
        work: impl Into<String>,
        unit: Unit,
        ours: Rounds,
        relation: Relation,
        other: Rounds,
    ) -> Self {
        let figures: Vec<f64> =
            ours.1.iter().zip(other.1).map(|(ours, other)| relation.of(*ours, *other)).collect();
        Self {
            work: work.into(),
            unit,
            ours: Side::of(ours),
            other: Some(Side::of(other)),
            relation,
            figure: Spread::of(&figures),
            target: None,
            is_met: None,
        }
    }

    /// Looks at one side alone.
    pub fn alone(work: impl Into<String>, unit: Unit, ours: Rounds) -> Self {
        let side = Side::of(ours);
        let (figure, relation) = (side.measured, Relation::Ours);
        Self {
            work: work.into(),
            unit,
            ours: side,
            other: None,
            relation,
            figure,
            target: None,
            is_met: None,
        }
    }

    /// The same with a target.
    pub fn target(mut self, target: Target) -> Self {
        self.is_met = Some(match target {
            Target::AtMost(most) => self.figure.median <= most,
            Target::AtLeast(least) => self.figure.median >= least,
        });
        self.target = Some(target);
        self
    }

    /// A value of the figure in words.
    pub fn in_words(&self, value: f64) -> String {
        match self.relation {
            Relation::Ratio => format!("{value:.2}"),
            Relation::TimesAsFast => format!("{value:.1} ×"),
            Relation::Difference | Relation::Ours => self.unit.in_words(value),
        }
    }

    /// The target in words.
    pub fn target_in_words(&self) -> Option<String> {
        self.target.map(|target| match target {
            Target::AtMost(most) => format!("≤ {}", self.in_words(most)),
            Target::AtLeast(least) => format!("≥ {}", self.in_words(least)),
        })
    }

    /// Whether the target is met, in words; unsure of it if the target lies between
    /// the quartiles.
    fn verdict(&self) -> &'static str {
        let Some((Target::AtMost(target) | Target::AtLeast(target), is_met)) = self.target.zip(self.is_met)
        else {
            return "";
        };
        match (is_met, (self.figure.lower..=self.figure.upper).contains(&target)) {
            (true, false) => "yes",
            (true, true) => "yes, unsure",
            (false, false) => "**no**",
            (false, true) => "**no**, unsure",
        }
    }

    fn side_in_words(&self, side: &Side) -> String {
        format!("{} {}", side.name, self.unit.in_words(side.measured.median))
    }
}

impl Relation {
    fn of(self, ours: f64, other: f64) -> f64 {
        match self {
            Self::Ratio => ours / other,
            Self::TimesAsFast => other / ours,
            Self::Difference => ours - other,
            Self::Ours => ours,
        }
    }
}

impl Side {
    fn of((name, measured): Rounds) -> Self {
        Self { name: name.to_owned(), measured: Spread::of(measured) }
    }
}

impl Unit {
    fn in_words(self, value: f64) -> String {
        match self {
            Self::Nanoseconds if value.abs() < 1e6 => format!("{} µs", three_digits(value / 1e3)),
            Self::Nanoseconds => format!("{} ms", three_digits(value / 1e6)),
            Self::PerSecond => format!("{value:.0}/s"),
            Self::Bytes => format!("{} MB", three_digits(value / f64::from(1 << 20))),
        }
    }
}

/// A number as people want it: three digits, or all before the point.
pub fn three_digits(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Where it was measured, and with what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The model of the processors.
    pub processor: String,
    /// How many there are.
    pub processors: usize,
    /// The load average of the last minute before the run began: above 0, others
    /// were at work.
    pub load_before: f64,
    /// The version of the server.
    pub redis: String,
    /// Whether it was a quick run.
    pub quick: bool,
}

impl Machine {
    /// This one, before a run with a server of this version.
    pub fn before(redis: String, quick: bool) -> Self {
        let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        Self {
            processor: model.unwrap_or("an unknown processor").to_owned(),
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

/// The findings as a table in Markdown, which people can read as it is.
pub fn table(machine: &Machine, findings: &[Finding]) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header([
        "work",
        "ours",
        "beside",
        "figure",
        "quartiles",
        "target",
        "met",
    ]);
    for finding in findings {
        let Spread { lower, median, upper } = finding.figure;
        table.add_row([
            finding.work.clone(),
            finding.side_in_words(&finding.ours),
            finding.other.as_ref().map_or(String::new(), |other| finding.side_in_words(other)),
            finding.in_words(median),
            format!("{} to {}", finding.in_words(lower), finding.in_words(upper)),
            finding.target_in_words().unwrap_or_default(),
            finding.verdict().to_owned(),
        ]);
    }
    let Machine { processor, processors, load_before, redis, quick } = machine;
    let quick = if *quick { ", a quick run" } else { "" };
    format!(
        "{processors} processors ({processor}, load {load_before} before), Redis {redis}{quick}.\n\n{}\n",
        table.trim_fmt()
    )
}

/// Writes all of it as JSON.
///
/// # Errors
/// The file can't be written.
pub fn write_json(path: &Path, machine: &Machine, findings: &[Finding]) -> Result<()> {
    #[derive(Serialize)]
    struct Report<'a> {
        machine: &'a Machine,
        findings: &'a [Finding],
    }
    let text = serde_json::to_string_pretty(&Report { machine, findings })?;
    fs::write(path, text + "\n").with_context(|| path.display().to_string())
}

const BEGIN: &str = "<!-- What the bench wrote begins here. -->\n";
const END: &str = "<!-- What the bench wrote ends here. -->\n";

/// Puts the table where the one before it stands in a file.
///
/// # Errors
/// The file can't be read or written, or has no place for a table.
pub fn rewrite(path: &Path, table: &str) -> Result<()> {
    rewrite_between(path, BEGIN, END, table)
}

/// The same where there are several tables, for the one with this name.
///
/// # Errors
/// As [`rewrite`].
pub fn rewrite_named(path: &Path, name: &str, table: &str) -> Result<()> {
    let begin = format!("<!-- What the bench wrote of {name} begins here. -->\n");
    rewrite_between(path, &begin, END, table)
}

fn rewrite_between(path: &Path, begin: &str, end: &str, table: &str) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let parts = text.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) =
        parts.with_context(|| format!("{} has no place for the table: {}", path.display(), begin.trim()))?;
    fs::write(path, format!("{before}{begin}{table}{end}{after}")).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_formed_within_each_round() {
        // The other's machine was three times as slow in the second round, and so was ours.
        let finding = Finding::between(
            "save",
            Unit::Nanoseconds,
            ("ours", &[110.0, 330.0]),
            Relation::Ratio,
            ("other", &[100.0, 300.0]),
        );
        assert_eq!(finding.in_words(finding.figure.lower), "1.10");
        assert_eq!(finding.in_words(finding.figure.upper), "1.10");
        assert_eq!(finding.clone().target(Target::AtMost(1.09)).verdict(), "**no**");
        assert_eq!(finding.target(Target::AtMost(1.11)).verdict(), "yes");
    }

    #[test]
    fn a_target_between_the_quartiles_is_not_met_for_sure() {
        let rounds = [1.0, 2.0, 3.0, 4.0];
        let verdict =
            |target| Finding::alone("work", Unit::Bytes, ("ours", &rounds)).target(target).verdict();
        assert_eq!(verdict(Target::AtMost(2.6)), "yes, unsure");
        assert_eq!(verdict(Target::AtMost(2.4)), "**no**, unsure");
        assert_eq!(verdict(Target::AtLeast(1.5)), "yes");
    }

    #[test]
    fn a_table_takes_the_place_of_the_one_before() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("a\n{BEGIN}old\n{END}b\n")).unwrap();
        rewrite(file.path(), "new\n").unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), format!("a\n{BEGIN}new\n{END}b\n"));
        fs::write(file.path(), "nothing").unwrap();
        assert!(rewrite(file.path(), "new\n").is_err());
    }

    #[test]
    fn of_several_tables_the_one_with_the_name_is_replaced() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = |b: &str| {
            format!(
                "<!-- What the bench wrote of a begins here. -->\nold\n{END}\n\
                 <!-- What the bench wrote of b begins here. -->\n{b}{END}"
            )
        };
        fs::write(file.path(), text("old\n")).unwrap();
        rewrite_named(file.path(), "b", "new\n").unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), text("new\n"));
        assert!(rewrite_named(file.path(), "c", "new\n").is_err());
    }
}
