//! How times become figures.
//!
//! The contenders of a work take turns. In a round each makes some calls, and
//! its time of the round is the median of them. A figure, such as our time over
//! another's, is formed within each round, between times that were taken within
//! a few milliseconds of each other: whatever else the machine does harms both.
//! What is reported is the median of these figures over the rounds, and as their
//! spread the quartiles. The ratio of the two medians, which a noisy machine can
//! push anywhere, is nowhere used.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

/// The median of many values, with the quartiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// A quarter of the values is below.
    pub lower: f64,
    /// Half of the values are.
    pub median: f64,
    /// Three quarters are.
    pub upper: f64,
}

impl Spread {
    /// That of some values; of none it is NaN.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = part * sorted.len().saturating_sub(1) as f64;
            let below = sorted.get(place.floor() as usize).copied().unwrap_or(f64::NAN);
            let above = sorted.get(place.ceil() as usize).copied().unwrap_or(f64::NAN);
            below + (above - below) * place.fract()
        };
        Self { lower: at(0.25), median: at(0.5), upper: at(0.75) }
    }
}

/// One who takes part in a work.
pub struct Contender<'a> {
    round: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Contender<'a> {
    /// One who makes a round like this, and says what it measured: the time of
    /// a call in nanoseconds, unless the work is about something else.
    pub fn new(round: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self { round: Box::new(round) }
    }
}

/// Has the contenders take turns; gives what each measured, round by round. A
/// round before the first warms all of them up and does not count.
///
/// # Errors
/// That of a contender.
pub fn interleave(
    rounds: usize,
    mut contenders: Vec<Contender>,
    progress: &ProgressBar,
) -> Result<Vec<Vec<f64>>> {
    let mut measured = vec![Vec::with_capacity(rounds); contenders.len()];
    progress.set_length(rounds as u64);
    progress.set_position(0);
    for contender in &mut contenders {
        (contender.round)()?;
    }
    for round in 0..rounds {
        let count = contenders.len();
        for turn in 0..count {
            // Nobody always comes behind the same other.
            let turn = if round % 2 == 0 { turn } else { count - 1 - turn };
            measured[turn].push((contenders[turn].round)()?);
        }
        progress.inc(1);
    }
    Ok(measured)
}

/// The median time of a call, in nanoseconds, each made with one of the inputs.
/// What it gives is dropped when its time has been taken.
///
/// # Errors
/// That of a call.
pub fn time_of_a_call<I, T>(inputs: Vec<I>, mut call: impl FnMut(I) -> Result<T>) -> Result<f64> {
    let mut times = Vec::with_capacity(inputs.len());
    for input in inputs {
        let start = Instant::now();
        let given = call(input)?;
        times.push(start.elapsed().as_nanos() as f64);
        drop(black_box(given));
    }
    Ok(Spread::of(&times).median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_values() {
        assert_eq!(Spread::of(&[4.0, 1.0, 3.0, 2.0]), Spread { lower: 1.75, median: 2.5, upper: 3.25 });
        assert_eq!(Spread::of(&[7.0]), Spread { lower: 7.0, median: 7.0, upper: 7.0 });
    }

    #[test]
    fn a_round_counts_for_all_contenders_but_the_first() {
        let counting = |mut number: f64| {
            Contender::new(move || {
                number += 1.0;
                Ok(number)
            })
        };
        let contenders = vec![counting(0.0), counting(10.0)];
        let measured = interleave(2, contenders, &ProgressBar::hidden()).unwrap();
        assert_eq!(measured, [[2.0, 3.0], [12.0, 13.0]]);
    }
}
