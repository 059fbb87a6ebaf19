//! One question to several nodes.

use std::cmp::Reverse;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use super::Access;
use crate::store::Effect;
use crate::store::redis::error::{TransportError, TransportFailure};

/// Returns the answer of the majority of all nodes, or after `grace`, counted from the
/// last answer, the most frequent answer so far. Ties go to the node listed first.
///
/// # Errors
/// If no node answers: the error of a node that can be reached, or else `unreachable`.
pub(crate) async fn majority<T, F>(
    questions: impl Iterator<Item = F>,
    grace: Duration,
    unreachable: TransportError,
) -> Result<T, TransportFailure>
where
    T: PartialEq + Send + 'static,
    F: Future<Output = Result<T, TransportFailure>> + Send + 'static,
{
    let mut pending = JoinSet::new();
    for (number, question) in questions.enumerate() {
        pending.spawn(async move { (number, question.await) });
    }
    let count = pending.len();
    // Each answer with its votes and the number of the first node that gave it.
    let mut answers: Vec<(T, usize, usize)> = Vec::new();
    let mut failure = TransportFailure::from(unreachable.clone());
    loop {
        let next = if answers.is_empty() {
            pending.join_next().await
        } else {
            timeout(grace, pending.join_next()).await.ok().flatten()
        };
        match next {
            None => break,
            Some(Ok((number, Ok(answer)))) => {
                let index = answers.iter().position(|(other, ..)| *other == answer).unwrap_or(answers.len());
                if index == answers.len() {
                    answers.push((answer, 0, number));
                }
                let (_, votes, first) = &mut answers[index];
                *votes += 1;
                *first = number.min(*first);
                if *votes * 2 > count {
                    break;
                }
            }
            Some(Ok((_, Err(other)))) => {
                debug!(failure = %other, "a node does not answer");
                let is_unreachable = other.error == TransportError::Unreachable
                    || other.error.effect(Access::Write) == Effect::Unknown;
                // A node that can be reached knows more.
                if !is_unreachable {
                    failure = other;
                } else if failure.error == unreachable {
                    failure = other.with_error(unreachable.clone());
                }
            }
            Some(Err(_)) => {}
        }
    }
    let winner = answers.into_iter().max_by_key(|(_, votes, first)| (*votes, Reverse(*first)));
    winner.map(|(answer, ..)| answer).ok_or(failure)
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// An answer, or a failure, after this many milliseconds.
    async fn answer(milliseconds: u64, answer: Option<u32>) -> Result<u32, TransportFailure> {
        sleep(Duration::from_millis(milliseconds)).await;
        answer.ok_or_else(|| TransportError::Unreachable.into())
    }

    #[tokio::test(start_paused = true)]
    async fn majority_of_the_timely_answers_wins_and_ties_go_to_the_first_node() {
        for (answers, expected) in [
            (&[(1, Some(7)), (2, Some(8)), (3, Some(8))][..], Some(8)),
            (&[(2, Some(7)), (1, Some(8))], Some(7)),
            (&[(1, Some(7)), (500, Some(8)), (500, Some(8))], Some(7)),
            (&[(500, Some(7)), (1, None)], Some(7)),
            (&[(1, None), (2, None)], None),
            (&[], None),
        ] {
            let questions = answers.iter().map(|(milliseconds, said)| answer(*milliseconds, *said));
            let result = majority(questions, Duration::from_millis(100), TransportError::NoSentinel).await;
            let result = result.map_err(|failure| failure.error);
            assert_eq!(result, expected.ok_or(TransportError::NoSentinel), "{answers:?}");
        }
    }
}
