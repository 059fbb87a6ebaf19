//! Every fault at every call: whatever fails, and wherever, nothing is left in
//! halves, the error tells the truth, and repeating the operation ends where it
//! would have ended without the fault.
//!
//! Which cells there are is not listed but found. An operation is run from a
//! starting state without a fault, and its calls of the store are counted; then
//! once more for each of them and each [`Fault`], over a new copy of the state.
//! What such a fault leaves is a starting state as well, and is gone through in
//! the same way, until nothing new is left: so a repeat that fails is covered
//! too, and the repeat of that, any number of faults in a row.
//!
//! A new scenario is a line or a few in `scenarios.rs`. To see what each of them
//! calls: `cargo test --workspace --test faults -- --nocapture`.

mod scenarios;

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use checkpointer::Layout;
use checkpointer::store::{Effect, Expiry, IndexPut, Operation, Put, Store};
use checkpointer_tests::contents::Contents;
use checkpointer_tests::contract::{Backend, TestStore};
use checkpointer_tests::faulty::{Call, Fault, Faulty};
use checkpointer_tests::paged::Paged;
use checkpointer_tests::checkpointer_under_test::{Mode, Options, CheckpointerUnderTest};

use scenarios::{End, Given, HOUR, Request, Scenario, scenarios};

/// Where the matrix is gone through.
struct Ground {
    place: TestStore,
    store: Arc<Faulty>,
    mode: Mode,
    faults: &'static [Fault],
    size: Size,
    complaints: Vec<String>,
}

/// How large the matrix turned out to be.
#[derive(Default)]
struct Size {
    scenarios: usize,
    states: usize,
    calls: usize,
    cells: usize,
}

/// A scenario without a fault.
struct Course {
    before: Contents,
    after: Contents,
    end: End,
}

impl Ground {
    /// With pages of that size, if it is given.
    async fn new(kind: Backend, mode: Mode, page: Option<usize>) -> Self {
        let place = match kind {
            Backend::Memory | Backend::File => TestStore::in_memory_file().await,
            kind => TestStore::new(kind).await,
        };
        let inner = match page {
            Some(size) => Paged::new(Arc::clone(&place.store), size),
            None => Arc::clone(&place.store),
        };
        let faults = match mode {
            Mode::Component => &Fault::ALL[..],
            Mode::Native => &Fault::OF_BLOCKING_CALLERS[..],
        };
        Self { place, store: Faulty::new(inner), mode, faults, size: Size::default(), complaints: vec![] }
    }

    /// Makes the starting state of a scenario.
    async fn prepare(&self, scenario: &Scenario) -> Contents {
        self.place.clear().await;
        let expiry =
            scenario.opening.ttl.map_or(Expiry::Never, |ttl| Expiry::AfterMs(ttl.as_millis() as u64));
        let mut latest: Option<(Options, CheckpointerUnderTest)> = None;
        for given in &scenario.given {
            let operation = match given {
                Given::Asked(opening, request) => {
                    let subject = match latest.take() {
                        Some((same, subject)) if same == *opening => subject,
                        _ => {
                            let store = Arc::clone(&self.place.store);
                            CheckpointerUnderTest::open(Mode::Native, store, opening).await.expect("a checkpointer")
                        }
                    };
                    let end = request.of(&subject).await;
                    assert!(matches!(end, End::Answer(_) | End::Count(_)), "{}: {end:?}", scenario.name);
                    latest = Some((opening.clone(), subject));
                    continue;
                }
                Given::Text(key, text) => {
                    Operation::Put(Put { key: key.clone(), value: (*text).to_owned(), expiry })
                }
                Given::Entry(index, member, score) => {
                    let (index, member) = (index.clone(), (*member).to_owned());
                    Operation::IndexPut(IndexPut { index, member, score: *score, expiry })
                }
                Given::Gone(key) => Operation::Delete(key.clone()),
            };
            self.place.write(vec![operation]).await;
        }
        Contents::of(&self.place).await
    }

    /// Asks once, with a fault or without, and says what came of it.
    async fn ask(&self, subject: &CheckpointerUnderTest, request: &Request, plan: Option<(usize, Fault)>) -> End {
        self.store.plan(plan);
        let (subject, request) = (subject.clone(), request.clone());
        let mut task = tokio::spawn(async move { request.of(&subject).await });
        let end = tokio::select! {
            end = &mut task => end,
            () = self.store.hangs() => {
                task.abort();
                task.await
            }
        };
        match end {
            Ok(end) => end,
            // What the store panicked with; a panic of anything else is a fault of ours.
            Err(error) => match error.try_into_panic() {
                Ok(panic) if panic.is::<Fault>() => End::Killed,
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => End::Killed,
            },
        }
    }

    /// Goes through all that can happen in a scenario.
    async fn go_through(&mut self, scenario: &Scenario) {
        let request = &scenario.request;
        let subject = CheckpointerUnderTest::open(self.mode, Arc::clone(&self.store) as Arc<dyn Store>, &scenario.opening);
        let subject = subject.await.expect("a checkpointer");
        let before = self.prepare(scenario).await;
        before.restore(&self.place).await;
        let end = self.ask(&subject, request, None).await;
        let after = Contents::of(&self.place).await;
        let course = Course { before, after, end };
        self.complain(
            scenario,
            &"no fault",
            course.judge_end(scenario, &course.before, &course.end, &course.after),
        );
        self.complain(scenario, &"no fault", course.judge_contents(scenario, &course.after));

        let mut states = vec![course.before.clone()];
        let mut number = 0;
        while let Some(state) = states.get(number).cloned() {
            number += 1;
            state.restore(&self.place).await;
            let end = self.ask(&subject, request, None).await;
            let calls = self.store.calls();
            self.size.states += 1;
            self.size.calls += calls.len();
            let end_contents = Contents::of(&self.place).await;
            let what = format!("state {number}, no fault");
            self.complain(scenario, &what, course.judge_repeat(scenario, &state, &end, &end_contents));
            if number == 1 {
                println!("{}: {calls:?}", scenario.name);
            }
            for call in 0..calls.len() {
                for fault in self.faults {
                    let what = format!("state {number}, {fault:?} at call {call} of {calls:?}");
                    state.restore(&self.place).await;
                    let end = self.ask(&subject, request, Some((call, *fault))).await;
                    // Redis may give a key of a scan twice, or not: then there is a call less.
                    let Some(kind) = self.store.calls().get(call).copied() else { continue };
                    self.size.cells += 1;
                    let left = Contents::of(&self.place).await;
                    self.complain(scenario, &what, course.judge_end(scenario, &state, &end, &left));
                    self.complain(scenario, &what, judge_fault(scenario, *fault, kind, &state, &end, &left));

                    let again = self.ask(&subject, request, None).await;
                    let repeated = Contents::of(&self.place).await;
                    self.complain(scenario, &what, course.judge_repeat(scenario, &left, &again, &repeated));
                    if !states.contains(&left) {
                        self.complain(scenario, &what, course.judge_contents(scenario, &left));
                        states.push(left);
                    }
                }
            }
        }
    }

    fn complain(&mut self, scenario: &Scenario, what: &dyn std::fmt::Display, complaints: Vec<String>) {
        let ttl = if scenario.opening.ttl.is_some() { "with" } else { "without" };
        let place = format!("{}, {ttl} a ttl, {what}", scenario.name);
        self.complaints.extend(complaints.into_iter().map(|complaint| format!("{place}: {complaint}")));
    }
}

/// What is wrong with something: each check that fails gives a sentence.
#[derive(Default)]
struct Judgement(Vec<String>);

impl Judgement {
    fn check(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.0.push(otherwise());
        }
    }
}

impl Course {
    /// Nothing stands there in halves, whatever happened.
    fn judge_contents(&self, scenario: &Scenario, left: &Contents) -> Vec<String> {
        let mut judgement = Judgement::default();
        let (kept_before, kept_after, kept) = (self.before.kept(), self.after.kept(), left.kept());
        let keys = kept_before.keys().chain(kept_after.keys()).chain(kept.keys());
        for key in keys {
            let it = kept.get(key);
            judgement.check(it == kept_before.get(key) || it == kept_after.get(key), || {
                format!("{key} is neither as before nor as after: {it:?}")
            });
        }
        // Those that somebody else left there are no fault of ours.
        let (wrong, wrong_before) = (left.wrong(), self.before.wrong());
        judgement.check(wrong.is_subset(&wrong_before), || {
            format!("entries name nothing of theirs: {:?}", &wrong - &wrong_before)
        });
        let (missing, missing_before) = (left.missing(), self.before.missing());
        judgement.check(missing.is_subset(&missing_before), || {
            format!("documents are not named: {:?}", &missing - &missing_before)
        });
        if let Request::DeleteSession(_) = scenario.request {
            let goes = || kept_before.iter().filter(|(key, _)| !kept_after.contains_key(*key));
            let latest = goes().max_by(|(_, one), (_, other)| one.score().total_cmp(&other.score()));
            let is_done = !goes().any(|(key, _)| kept.contains_key(key));
            judgement.check(is_done || latest.is_some_and(|(key, _)| kept.contains_key(key)), || {
                format!("the latest did not go last: {}", self.before.difference(left))
            });
        }
        for key in left.keys() {
            let expires = left.expires(key);
            judgement
                .check(expires == self.before.expires(key) || expires == self.after.expires(key), || {
                    format!("{key} expires: {expires:?}, as neither before nor after")
                });
        }
        if self.before.all_expire() && self.after.all_expire() {
            judgement
                .check(left.all_expire(), || format!("an expiry is lost: {}", self.before.difference(left)));
        }
        if scenario.only_reads() {
            judgement.check(left.without_dead() == self.before.without_dead(), || {
                format!("reading wrote: {}", self.before.difference(left))
            });
        }
        judgement.0
    }

    /// What is answered is true.
    fn judge_end(&self, scenario: &Scenario, state: &Contents, end: &End, left: &Contents) -> Vec<String> {
        let mut judgement = Judgement::default();
        let says_no_effect = matches!(end, End::Refused(_) | End::Failed(_, Effect::None));
        if says_no_effect && !scenario.only_reads() {
            judgement.check(scenario.equal(left, state), || {
                format!("{end:?}, and something was written: {}", state.difference(left))
            });
        }
        if let End::Count(_) | End::Answer(_) | End::Refused(_) = end {
            let expected = self.expected(state);
            judgement.check(*end == expected, || format!("{end:?} instead of {expected:?}"));
            // Only what reads, and a save that removes others by and by, may
            // leave something over; but nothing is missing.
            let may_leave = scenario.only_reads() || scenario.opening.max_checkpoints.is_some();
            let (kept, kept_after) = (left.kept(), self.after.kept());
            let is_missing = kept_after.iter().any(|(key, it)| kept.get(key) != Some(it));
            judgement.check(scenario.equal(left, &self.after) || may_leave && !is_missing, || {
                format!("{end:?}, and that is not so: {}", self.after.difference(left))
            });
        }
        judgement.0
    }

    /// A repeat ends where the operation does without a fault.
    fn judge_repeat(&self, scenario: &Scenario, state: &Contents, end: &End, left: &Contents) -> Vec<String> {
        let mut judgement = Judgement::default();
        let expected = self.expected(state);
        judgement.check(*end == expected, || format!("the repeat gives {end:?} instead of {expected:?}"));
        judgement.check(scenario.equal(left, &self.after), || {
            format!("the repeat ends elsewhere: {}", self.after.difference(left))
        });
        judgement.0
    }

    /// What is answered without a fault from some state on: what was removed
    /// before does not count again.
    fn expected(&self, state: &Contents) -> End {
        match &self.end {
            End::Count(count) => End::Count((count + state.count()).saturating_sub(self.before.count())),
            other => other.clone(),
        }
    }
}

/// What a fault does is told as it was, and no worse.
fn judge_fault(
    scenario: &Scenario,
    fault: Fault,
    call: Call,
    state: &Contents,
    end: &End,
    left: &Contents,
) -> Vec<String> {
    let mut judgement = Judgement::default();
    match (end, fault.error(call)) {
        (End::Killed, None) => {}
        (End::Killed, Some(_)) | (_, None) => judgement.0.push(format!("{end:?}")),
        (End::Failed(reason, effect), Some(error)) => {
            judgement.check(*reason == error.reason, || format!("{end:?} of {error:?}"));
            if error.effect == Effect::None && left == state && !scenario.prolongs() {
                judgement.check(*effect == Effect::None, || format!("{end:?}, and nothing was written"));
            }
            if error.effect == Effect::Unknown {
                judgement.check(*effect == Effect::Unknown, || format!("{end:?} of {error:?}"));
            }
            judgement.check(!(scenario.only_reads() && call == Call::Commit), || {
                format!("{end:?}, and only tidying up failed")
            });
        }
        (End::Count(_) | End::Answer(_) | End::Refused(_), Some(_)) => {}
    }
    judgement.0
}

/// Goes through the matrix at one place, and tells how large it is.
async fn holds(name: &str, mut ground: Ground, scenarios: impl IntoIterator<Item = Scenario>) {
    let start = Instant::now();
    for scenario in scenarios {
        ground.size.scenarios += 1;
        ground.go_through(&scenario).await;
    }
    let Size { scenarios, states, calls, cells } = ground.size;
    let (kinds, seconds) = (ground.faults.len(), start.elapsed().as_secs());
    // Past the harness, which keeps what a test that passes prints.
    let size = format!(
        "every fault {name}: {scenarios} scenarios with {states} states, {calls} calls of the store in all, \
         {kinds} kinds of faults: {cells} cells in {seconds} s\n"
    );
    std::io::stdout().write_all(size.as_bytes()).expect("printed");
    let complaints = &ground.complaints;
    let first: Vec<&str> = complaints.iter().take(20).map(String::as_str).collect();
    assert!(
        complaints.is_empty(),
        "{} complaints, the first of them:\n{}",
        complaints.len(),
        first.join("\n")
    );
}

/// The scenarios of a few checkpoints, with a ttl and without.
fn small(layout: Layout) -> impl Iterator<Item = Scenario> {
    let all = [None, Some(HOUR)].into_iter().flat_map(move |ttl| scenarios(ttl, layout));
    all.filter(|scenario| !scenario.is_large)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_leaves_halves_in_sqlite_natively() {
    holds("in SQLite, natively", Ground::new(Backend::File, Mode::Native, None).await, small(Layout::Llmfy))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_leaves_halves_in_sqlite_as_the_component() {
    holds(
        "in SQLite, as the component",
        Ground::new(Backend::File, Mode::Component, None).await,
        small(Layout::Llmfy),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_leaves_halves_in_redis_as_the_component() {
    holds(
        "in Redis, as the component",
        Ground::new(Backend::Redis, Mode::Component, None).await,
        small(Layout::Llmfy),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_leaves_halves_in_partitions_of_sqlite_as_the_component() {
    let ground = Ground::new(Backend::File, Mode::Component, None).await;
    holds("in partitions of SQLite, as the component", ground, small(Layout::Partitioned)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_leaves_halves_where_more_goes_than_one_step_takes() {
    let large = scenarios(Some(HOUR), Layout::Llmfy).into_iter().filter(|scenario| scenario.is_large);
    holds("among very many", Ground::new(Backend::File, Mode::Native, None).await, large).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_leaves_halves_where_all_goes_page_by_page() {
    let small = scenarios(Some(HOUR), Layout::Llmfy).into_iter().filter(|scenario| !scenario.is_large);
    holds("in pages of two", Ground::new(Backend::File, Mode::Native, Some(2)).await, small).await;
}
