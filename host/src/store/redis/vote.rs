//! What counts where several servers are asked the same.

use std::cmp::Reverse;
use std::time::Duration;

use ::redis::{RedisError, make_extension_error};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use super::connection::Access;
use super::failure::classify;
use crate::store::Effect;

/// What most of those who are asked say, or most of those who do within `grace` from
/// the first answer on; of two answers that as many give, that of the first one asked.
///
/// # Errors
/// If nobody says anything: what tells most, or the error with the code `unreachable`
/// where nobody can be reached.
pub async fn most_say<T, F>(
    asked: impl Iterator<Item = F>,
    grace: Duration,
    unreachable: &str,
) -> Result<T, RedisError>
where
    T: PartialEq + Send + 'static,
    F: Future<Output = Result<T, RedisError>> + Send + 'static,
{
    let mut answers = JoinSet::new();
    for (number, answer) in asked.enumerate() {
        answers.spawn(async move { (number, answer.await) });
    }
    let count = answers.len();
    // Each with how many gave it, and the first one asked of these.
    let mut said: Vec<(T, usize, usize)> = Vec::new();
    let mut fault = make_extension_error(unreachable.to_owned(), None);
    loop {
        let next = if said.is_empty() {
            answers.join_next().await
        } else {
            timeout(grace, answers.join_next()).await.ok().flatten()
        };
        match next {
            None => break,
            Some(Ok((number, Ok(answer)))) => {
                let place = said.iter().position(|(other, ..)| *other == answer).unwrap_or(said.len());
                if place == said.len() {
                    said.push((answer, 0, number));
                }
                let (_, votes, first) = &mut said[place];
                *votes += 1;
                *first = number.min(*first);
                if *votes * 2 > count {
                    break;
                }
            }
            Some(Ok((_, Err(error)))) => {
                debug!(%error, "one of those who are asked does not answer");
                let is_out_of_reach = error.is_connection_refusal()
                    || classify(&error, Access::Write).effect == Effect::Unknown;
                // Whoever answers knows more than those who don't.
                if !is_out_of_reach {
                    fault = error;
                } else if fault.code() == Some(unreachable) {
                    fault = make_extension_error(unreachable.to_owned(), Some(error.to_string()));
                }
            }
            Some(Err(_)) => {}
        }
    }
    let most = said.into_iter().max_by_key(|(_, votes, first)| (*votes, Reverse(*first)));
    most.map(|(answer, ..)| answer).ok_or(fault)
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::time::sleep;

    use super::*;

    const UNREACHABLE: &str = "NOBODY";

    /// An answer, or none at all, after so many milliseconds.
    async fn answer(milliseconds: u64, answer: Option<u32>) -> Result<u32, RedisError> {
        sleep(Duration::from_millis(milliseconds)).await;
        answer.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused).into())
    }

    #[tokio::test(start_paused = true)]
    async fn most_of_those_who_answer_soon_enough_decide_and_the_first_of_two_halves() {
        for (answers, expected) in [
            (&[(1, Some(7)), (2, Some(8)), (3, Some(8))][..], Some(8)),
            (&[(2, Some(7)), (1, Some(8))], Some(7)),
            (&[(1, Some(7)), (500, Some(8)), (500, Some(8))], Some(7)),
            (&[(500, Some(7)), (1, None)], Some(7)),
            (&[(1, None), (2, None)], None),
            (&[], None),
        ] {
            let asked = answers.iter().map(|(milliseconds, said)| answer(*milliseconds, *said));
            let said = most_say(asked, Duration::from_millis(100), UNREACHABLE).await;
            let said = said.map_err(|error| error.code().map(str::to_owned));
            assert_eq!(said, expected.ok_or(Some(UNREACHABLE.to_owned())), "{answers:?}");
        }
    }
}
