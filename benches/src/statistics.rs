//! Times, and the figures made of them.
//!
//! The subjects of a benchmark take turns. In a round each of them makes several
//! calls, and its time of the round is their median. A figure, such as the ratio
//! of two times, is computed within each round, from times taken within a few
//! milliseconds of each other: other load on the machine affects both. Reported
//! are the median and the quartiles of these figures over the rounds. The ratio of
//! the two medians is not used, since noise affects it without a limit.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

/// The median and the quartiles of many values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quartiles {
    /// A quarter of the values is lower.
    pub lower: f64,
    /// Half of the values are lower.
    pub median: f64,
    /// Three quarters of the values are lower.
    pub upper: f64,
}

impl Quartiles {
    /// The quartiles of these values; NaN if there are none.
    pub fn new(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let index = part * sorted.len().saturating_sub(1) as f64;
            let below = sorted.get(index.floor() as usize).copied().unwrap_or(f64::NAN);
            let above = sorted.get(index.ceil() as usize).copied().unwrap_or(f64::NAN);
            below + (above - below) * index.fract()
        };
        Self { lower: at(0.25), median: at(0.5), upper: at(0.75) }
    }
}

/// A participant of a benchmark.
pub struct Subject<'a> {
    round: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Subject<'a> {
    /// A subject with this round. A round returns its measured value: the time of a
    /// call in nanoseconds, unless the benchmark measures something else.
    pub fn new(round: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self { round: Box::new(round) }
    }
}

/// Runs the subjects in turns and returns the measured values of each, one per
/// round. A round that warms up precedes the first and is not counted.
///
/// # Errors
/// A subject fails.
pub fn interleave(
    rounds: usize,
    mut subjects: Vec<Subject>,
    progress: &ProgressBar,
) -> Result<Vec<Vec<f64>>> {
    let mut measured = vec![Vec::with_capacity(rounds); subjects.len()];
    progress.set_length(rounds as u64);
    progress.set_position(0);
    for subject in &mut subjects {
        (subject.round)()?;
    }
    for round in 0..rounds {
        let count = subjects.len();
        for turn in 0..count {
            // The order alternates, so that no subject always follows the same other.
            let turn = if round % 2 == 0 { turn } else { count - 1 - turn };
            measured[turn].push((subjects[turn].round)()?);
        }
        progress.inc(1);
    }
    Ok(measured)
}

/// Makes one call per input and returns the median time of a call in nanoseconds.
/// Results are dropped outside of the measured time.
///
/// # Errors
/// A call fails.
pub fn call_time<I, T>(inputs: Vec<I>, mut call: impl FnMut(I) -> Result<T>) -> Result<f64> {
    let mut times = Vec::with_capacity(inputs.len());
    for input in inputs {
        let start = Instant::now();
        let result = call(input)?;
        times.push(start.elapsed().as_nanos() as f64);
        drop(black_box(result));
    }
    Ok(Quartiles::new(&times).median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_interpolated() {
        let quartiles = Quartiles { lower: 1.75, median: 2.5, upper: 3.25 };
        assert_eq!(Quartiles::new(&[4.0, 1.0, 3.0, 2.0]), quartiles);
        assert_eq!(Quartiles::new(&[7.0]), Quartiles { lower: 7.0, median: 7.0, upper: 7.0 });
    }

    #[test]
    fn the_first_round_of_all_subjects_is_not_counted() {
        let counting = |mut number: f64| {
            Subject::new(move || {
                number += 1.0;
                Ok(number)
            })
        };
        let subjects = vec![counting(0.0), counting(10.0)];
        let measured = interleave(2, subjects, &ProgressBar::hidden()).unwrap();
        assert_eq!(measured, [[2.0, 3.0], [12.0, 13.0]]);
    }
}
