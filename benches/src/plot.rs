//! The figures beside their targets, as an SVG: what is left of the line is
//! better than its target.
//!
//! There is no background, and every colour is a middle one, so that it can be
//! read on white and on black.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;

use crate::report::{Finding, Target};

const TEXT: RGBColor = RGBColor(125, 125, 125);
const MET: RGBColor = RGBColor(26, 142, 95);
const MISSED: RGBColor = RGBColor(214, 82, 63);

const WIDTH: u32 = 960;
const ROW: u32 = 24;
const NAMES: u32 = 460;
const AXIS: u32 = 48;

/// How far off a target is shown: this many times.
const REACH: f64 = 8.0;

/// Draws those that have a target.
///
/// # Errors
/// Something can't be drawn.
pub fn draw(findings: &[Finding]) -> Result<String> {
    let rows: Vec<Row> = findings.iter().filter_map(Row::of).collect();
    let mut svg = String::new();
    let height = rows.len() as u32 * ROW + AXIS + 10;
    let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    // The errors of plotters borrow the text that it draws into.
    draw_rows(&area, &rows).map_err(|error| anyhow!("{error}"))?;
    drop(area);
    Ok(svg)
}

/// A figure over its target, or upside down where more is better.
struct Row {
    name: String,
    lower: f64,
    median: f64,
    upper: f64,
    is_met: bool,
}

impl Row {
    fn of(finding: &Finding) -> Option<Self> {
        let target = finding.target?;
        let beside = |value: f64| {
            let part = match target {
                Target::AtMost(most) => value / most,
                Target::AtLeast(least) => least / value,
            };
            part.clamp(1.0 / REACH, REACH)
        };
        let other = finding.other.as_ref().map_or(String::new(), |other| format!(" beside {}", other.name));
        Some(Self {
            name: format!(
                "{}{other}: {} ({})",
                finding.work,
                finding.in_words(finding.figure.median),
                finding.target_in_words()?
            ),
            lower: beside(finding.figure.lower),
            median: beside(finding.figure.median),
            upper: beside(finding.figure.upper),
            is_met: finding.is_met?,
        })
    }
}

type Fault<B> = DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>;

fn draw_rows<B: DrawingBackend>(area: &DrawingArea<B, Shift>, rows: &[Row]) -> Result<(), Fault<B>> {
    let mut chart = ChartBuilder::on(area)
        .margin_right(20)
        .margin_top(10)
        .x_label_area_size(AXIS)
        .y_label_area_size(NAMES)
        // The first row is on top.
        .build_cartesian_2d(
            (1.0 / REACH..REACH).log_scale().base(2.0),
            (0..rows.len().saturating_sub(1)).into_segmented(),
        )?;
    let name = |place: &SegmentValue<usize>| match place {
        SegmentValue::CenterOf(place) => {
            rows.get(rows.len() - 1 - place).map_or(String::new(), |row| row.name.clone())
        }
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_mesh()
        .axis_style(TEXT)
        .label_style(("sans-serif", 15, &TEXT))
        .x_desc("times the target; to the left is better")
        .x_labels(9)
        .x_label_formatter(&|times| if *times == 1.0 { "target".to_owned() } else { times.to_string() })
        .y_labels(rows.len())
        .y_label_formatter(&name)
        .draw()?;
    let target = [(1.0, SegmentValue::Exact(0)), (1.0, SegmentValue::Last)];
    chart.draw_series([PathElement::new(target, TEXT.stroke_width(2))])?;
    for (place, row) in rows.iter().rev().enumerate() {
        let colour = if row.is_met { MET } else { MISSED };
        let at = |times| (times, SegmentValue::CenterOf(place));
        chart.draw_series([PathElement::new([at(row.lower), at(row.upper)], colour.stroke_width(3))])?;
        chart.draw_series([Circle::new(at(row.median), 5, colour.filled())])?;
    }
    area.present()
}
