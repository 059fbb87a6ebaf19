//! A plot of the figures relative to their targets, as SVG. A figure to the left of
//! the line is better than its target.
//!
//! The plot has no background and uses medium colours, so that it is readable on
//! white and on black.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;

use crate::report::{Row, Target};

const TEXT: RGBColor = RGBColor(125, 125, 125);
const MET: RGBColor = RGBColor(26, 142, 95);
const MISSED: RGBColor = RGBColor(214, 82, 63);

const WIDTH: u32 = 960;
const ROW_HEIGHT: u32 = 24;
const LABEL_WIDTH: u32 = 460;
const AXIS_HEIGHT: u32 = 48;

/// The largest factor between a figure and its target that is shown.
const MAX_FACTOR: f64 = 8.0;

/// Draws the rows with a target.
///
/// # Errors
/// The SVG backend fails.
pub fn draw(rows: &[Row]) -> Result<String> {
    let points: Vec<Point> = rows.iter().filter_map(Point::new).collect();
    let mut svg = String::new();
    let height = points.len() as u32 * ROW_HEIGHT + AXIS_HEIGHT + 10;
    let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    // The errors of plotters borrow the string, so they are converted.
    draw_points(&area, &points).map_err(|error| anyhow!("{error}"))?;
    drop(area);
    Ok(svg)
}

/// A figure divided by its target, inverted if higher is better.
struct Point {
    label: String,
    lower: f64,
    median: f64,
    upper: f64,
    is_met: bool,
}

impl Point {
    fn new(row: &Row) -> Option<Self> {
        let target = row.target?;
        let relative = |value: f64| {
            let factor = match target {
                Target::AtMost(bound) => value / bound,
                Target::AtLeast(bound) => bound / value,
            };
            factor.clamp(1.0 / MAX_FACTOR, MAX_FACTOR)
        };
        let reference = row.reference.as_ref().map_or(String::new(), |it| format!(" vs. {}", it.name));
        Some(Self {
            label: format!(
                "{}{reference}: {} ({})",
                row.benchmark,
                row.format_figure(row.figure.median),
                row.format_target()?
            ),
            lower: relative(row.figure.lower),
            median: relative(row.figure.median),
            upper: relative(row.figure.upper),
            is_met: row.is_met?,
        })
    }
}

type DrawError<B> = DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>;

fn draw_points<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    points: &[Point],
) -> Result<(), DrawError<B>> {
    let mut chart = ChartBuilder::on(area)
        .margin_right(20)
        .margin_top(10)
        .x_label_area_size(AXIS_HEIGHT)
        .y_label_area_size(LABEL_WIDTH)
        .build_cartesian_2d(
            (1.0 / MAX_FACTOR..MAX_FACTOR).log_scale().base(2.0),
            (0..points.len().saturating_sub(1)).into_segmented(),
        )?;
    // The first point is at the top.
    let label = |position: &SegmentValue<usize>| match position {
        SegmentValue::CenterOf(index) => {
            points.get(points.len() - 1 - index).map_or(String::new(), |point| point.label.clone())
        }
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_mesh()
        .axis_style(TEXT)
        .label_style(("sans-serif", 15, &TEXT))
        .x_desc("figure relative to its target; left is better")
        .x_labels(9)
        .x_label_formatter(&|factor| if *factor == 1.0 { "target".to_owned() } else { factor.to_string() })
        .y_labels(points.len())
        .y_label_formatter(&label)
        .draw()?;
    let target = [(1.0, SegmentValue::Exact(0)), (1.0, SegmentValue::Last)];
    chart.draw_series([PathElement::new(target, TEXT.stroke_width(2))])?;
    for (index, point) in points.iter().rev().enumerate() {
        let colour = if point.is_met { MET } else { MISSED };
        let at = |factor| (factor, SegmentValue::CenterOf(index));
        chart.draw_series([PathElement::new([at(point.lower), at(point.upper)], colour.stroke_width(3))])?;
        chart.draw_series([Circle::new(at(point.median), 5, colour.filled())])?;
    }
    area.present()
}
