//! Every fault at every call: after any failure no partial write is left, the
//! error is correct, and a retry has the result of the operation without the
//! fault.
//!
//! The cells of the matrix are discovered. An operation runs from a starting
//! state without a fault, and its calls of the store are counted. Then it runs
//! once for each of these calls and each [`Fault`], from a copy of the state. The
//! contents that a fault leaves are a starting state as well, and are tested in
//! the same way until there is no new one. This covers retries that fail, any
//! number of times in a row.
//!
//! A scenario is a few lines in `scenarios.rs`. To see the calls of each: `cargo
//! test --workspace --test all faults -- --nocapture`.

mod scenarios;

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use checkpointer::Layout;
use checkpointer::store::{Effect, Expiry, IndexPut, Operation, Put, Store};
use checkpointer_tests::checkpointer_under_test::{CheckpointerUnderTest, Mode, Options};
use checkpointer_tests::contents::Contents;
use checkpointer_tests::contract::{Backend, TestStore};
use checkpointer_tests::faulty::{Call, Fault, Faulty};
use checkpointer_tests::long_tests;
use checkpointer_tests::paged::Paged;

use scenarios::{End, Given, HOUR, Request, Scenario, scenarios};

/// A store and mode in which all scenarios run.
struct Matrix {
    test_store: TestStore,
    store: Arc<Faulty>,
    mode: Mode,
    faults: &'static [Fault],
    size: Size,
    violations: Vec<String>,
}

/// The size of the matrix.
#[derive(Default)]
struct Size {
    scenarios: usize,
    states: usize,
    calls: usize,
    cells: usize,
}

/// The result of a scenario without a fault.
struct Baseline {
    before: Contents,
    after: Contents,
    end: End,
}

impl Matrix {
    /// With pages of this size, if it is given.
    async fn new(backend: Backend, mode: Mode, page: Option<usize>) -> Self {
        let test_store = match backend {
            Backend::Memory | Backend::File => TestStore::in_memory_file().await,
            backend => TestStore::new(backend).await,
        };
        let inner = match page {
            Some(size) => Paged::new(Arc::clone(&test_store.inner), size),
            None => Arc::clone(&test_store.inner),
        };
        let faults = match mode {
            Mode::Component => &Fault::ALL[..],
            Mode::Native => &Fault::OF_BLOCKING_CALLERS[..],
        };
        Self {
            test_store,
            store: Faulty::new(inner),
            mode,
            faults,
            size: Size::default(),
            violations: vec![],
        }
    }

    /// Creates the starting state of a scenario.
    async fn prepare(&self, scenario: &Scenario) -> Contents {
        self.test_store.clear().await;
        let expiry =
            scenario.options.ttl.map_or(Expiry::Never, |ttl| Expiry::AfterMs(ttl.as_millis() as u64));
        let mut latest: Option<(Options, CheckpointerUnderTest)> = None;
        for given in &scenario.given {
            let operation = match given {
                Given::Asked(options, request) => {
                    let checkpointer = match latest.take() {
                        Some((same, checkpointer)) if same == *options => checkpointer,
                        _ => {
                            let store = Arc::clone(&self.test_store.inner);
                            CheckpointerUnderTest::open(Mode::Native, store, options)
                                .await
                                .expect("a checkpointer")
                        }
                    };
                    let end = request.of(&checkpointer).await;
                    assert!(matches!(end, End::Answer(_) | End::Count(_)), "{}: {end:?}", scenario.name);
                    latest = Some((options.clone(), checkpointer));
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
            self.test_store.write(vec![operation]).await;
        }
        Contents::of(&self.test_store).await
    }

    /// Runs the operation once, with or without a fault. Returns the result.
    async fn ask(
        &self,
        checkpointer: &CheckpointerUnderTest,
        request: &Request,
        plan: Option<(usize, Fault)>,
    ) -> End {
        self.store.plan(plan);
        let (checkpointer, request) = (checkpointer.clone(), request.clone());
        let mut task = tokio::spawn(async move { request.of(&checkpointer).await });
        let end = tokio::select! {
            end = &mut task => end,
            () = self.store.hangs() => {
                task.abort();
                task.await
            }
        };
        match end {
            Ok(end) => end,
            // The panic of the store; any other panic is a defect.
            Err(error) => match error.try_into_panic() {
                Ok(panic) if panic.is::<Fault>() => End::Killed,
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => End::Killed,
            },
        }
    }

    /// Runs all cells of a scenario.
    async fn run_scenario(&mut self, scenario: &Scenario) {
        let request = &scenario.request;
        let checkpointer = CheckpointerUnderTest::open(
            self.mode,
            Arc::clone(&self.store) as Arc<dyn Store>,
            &scenario.options,
        );
        let checkpointer = checkpointer.await.expect("a checkpointer");
        let before = self.prepare(scenario).await;
        before.restore(&self.test_store).await;
        let end = self.ask(&checkpointer, request, None).await;
        let after = Contents::of(&self.test_store).await;
        let baseline = Baseline { before, after, end };
        self.report(
            scenario,
            &"no fault",
            baseline.check_end(scenario, &baseline.before, &baseline.end, &baseline.after),
        );
        self.report(scenario, &"no fault", baseline.check_contents(scenario, &baseline.after));

        let mut states = vec![baseline.before.clone()];
        let mut number = 0;
        while let Some(state) = states.get(number).cloned() {
            number += 1;
            state.restore(&self.test_store).await;
            let end = self.ask(&checkpointer, request, None).await;
            let calls = self.store.calls();
            self.size.states += 1;
            self.size.calls += calls.len();
            let end_contents = Contents::of(&self.test_store).await;
            let what = format!("state {number}, no fault");
            self.report(scenario, &what, baseline.check_retry(scenario, &state, &end, &end_contents));
            if number == 1 {
                println!("{}: {calls:?}", scenario.name);
            }
            for call in 0..calls.len() {
                for fault in self.faults {
                    let what = format!("state {number}, {fault:?} at call {call} of {calls:?}");
                    state.restore(&self.test_store).await;
                    let end = self.ask(&checkpointer, request, Some((call, *fault))).await;
                    // Redis may return a key of a scan twice or not, which changes the
                    // number of calls.
                    let Some(kind) = self.store.calls().get(call).copied() else { continue };
                    self.size.cells += 1;
                    let left = Contents::of(&self.test_store).await;
                    self.report(scenario, &what, baseline.check_end(scenario, &state, &end, &left));
                    self.report(scenario, &what, check_fault(scenario, *fault, kind, &state, &end, &left));

                    let again = self.ask(&checkpointer, request, None).await;
                    let repeated = Contents::of(&self.test_store).await;
                    self.report(scenario, &what, baseline.check_retry(scenario, &left, &again, &repeated));
                    if !states.contains(&left) {
                        self.report(scenario, &what, baseline.check_contents(scenario, &left));
                        states.push(left);
                    }
                }
            }
        }
    }

    fn report(&mut self, scenario: &Scenario, what: &dyn std::fmt::Display, violations: Vec<String>) {
        let ttl = if scenario.options.ttl.is_some() { "with" } else { "without" };
        let context = format!("{}, {ttl} a ttl, {what}", scenario.name);
        self.violations.extend(violations.into_iter().map(|violation| format!("{context}: {violation}")));
    }
}

/// The failed checks of a result, each a sentence.
#[derive(Default)]
struct Checks(Vec<String>);

impl Checks {
    fn check(&mut self, run: bool, otherwise: impl FnOnce() -> String) {
        if !run {
            self.0.push(otherwise());
        }
    }
}

impl Baseline {
    /// No partial write is left.
    fn check_contents(&self, scenario: &Scenario, left: &Contents) -> Vec<String> {
        let mut checks = Checks::default();
        let (kept_before, kept_after, kept) =
            (self.before.documents(), self.after.documents(), left.documents());
        let keys = kept_before.keys().chain(kept_after.keys()).chain(kept.keys());
        for key in keys {
            let it = kept.get(key);
            checks.check(it == kept_before.get(key) || it == kept_after.get(key), || {
                format!("{key} is neither as before nor as after: {it:?}")
            });
        }
        // Defects of the starting state do not count.
        let (invalid, invalid_before) = (left.invalid_entries(), self.before.invalid_entries());
        checks.check(invalid.is_subset(&invalid_before), || {
            format!("invalid index entries: {:?}", &invalid - &invalid_before)
        });
        let (missing, missing_before) = (left.missing_entries(), self.before.missing_entries());
        checks.check(missing.is_subset(&missing_before), || {
            format!("missing index entries: {:?}", &missing - &missing_before)
        });
        if let Request::DeleteSession(_) = scenario.request {
            let goes = || kept_before.iter().filter(|(key, _)| !kept_after.contains_key(*key));
            let latest = goes().max_by(|(_, one), (_, other)| one.score().total_cmp(&other.score()));
            let is_done = !goes().any(|(key, _)| kept.contains_key(key));
            checks.check(is_done || latest.is_some_and(|(key, _)| kept.contains_key(key)), || {
                format!("the latest was not deleted last: {}", self.before.difference(left))
            });
        }
        for key in left.keys() {
            let expires = left.expires(key);
            checks.check(expires == self.before.expires(key) || expires == self.after.expires(key), || {
                format!("{key} expires: {expires:?}, neither as before nor as after")
            });
        }
        if self.before.all_expire() && self.after.all_expire() {
            checks
                .check(left.all_expire(), || format!("an expiry is lost: {}", self.before.difference(left)));
        }
        if scenario.only_reads() {
            checks.check(left.without_dangling() == self.before.without_dangling(), || {
                format!("reading wrote: {}", self.before.difference(left))
            });
        }
        checks.0
    }

    /// The answer is correct.
    fn check_end(&self, scenario: &Scenario, state: &Contents, end: &End, left: &Contents) -> Vec<String> {
        let mut checks = Checks::default();
        let says_no_effect = matches!(end, End::Refused(_) | End::Failed(_, Effect::None));
        if says_no_effect && !scenario.only_reads() {
            checks.check(scenario.equal(left, state), || {
                format!("{end:?}, and something was written: {}", state.difference(left))
            });
        }
        if let End::Count(_) | End::Answer(_) | End::Refused(_) = end {
            let expected = self.expected(state);
            checks.check(end.matches(&expected), || format!("{end:?} instead of {expected:?}"));
            // Only reads, and saves that remove others in several steps, may leave
            // something to remove; nothing may be missing.
            let may_leave = scenario.only_reads() || scenario.options.max_checkpoints.is_some();
            let (kept, kept_after) = (left.documents(), self.after.documents());
            let is_missing = kept_after.iter().any(|(key, it)| kept.get(key) != Some(it));
            checks.check(scenario.equal(left, &self.after) || may_leave && !is_missing, || {
                format!("{end:?}, which is wrong: {}", self.after.difference(left))
            });
        }
        checks.0
    }

    /// A retry has the result of the operation without the fault.
    fn check_retry(&self, scenario: &Scenario, state: &Contents, end: &End, left: &Contents) -> Vec<String> {
        let mut checks = Checks::default();
        let expected = self.expected(state);
        checks.check(*end == expected, || format!("the retry returns {end:?} instead of {expected:?}"));
        checks.check(scenario.equal(left, &self.after), || {
            format!("the retry has another result: {}", self.after.difference(left))
        });
        checks.0
    }

    /// The expected answer from a state: checkpoints that were removed earlier do
    /// not count again.
    fn expected(&self, state: &Contents) -> End {
        match &self.end {
            End::Count(count) => End::Count((count + state.count()).saturating_sub(self.before.count())),
            other => other.clone(),
        }
    }
}

/// The error of a fault is correct, and not more pessimistic than necessary.
fn check_fault(
    scenario: &Scenario,
    fault: Fault,
    call: Call,
    state: &Contents,
    end: &End,
    left: &Contents,
) -> Vec<String> {
    let mut checks = Checks::default();
    match (end, fault.error(call)) {
        (End::Killed, None) => {}
        (End::Killed, Some(_)) | (_, None) => checks.0.push(format!("{end:?}")),
        (End::Failed(reason, effect), Some(error)) => {
            checks.check(*reason == error.reason, || format!("{end:?} of {error:?}"));
            if error.effect == Effect::None && left == state && !scenario.prolongs() {
                checks.check(*effect == Effect::None, || format!("{end:?}, and nothing was written"));
            }
            if error.effect == Effect::Unknown {
                checks.check(*effect == Effect::Unknown, || format!("{end:?} of {error:?}"));
            }
            checks.check(!(scenario.only_reads() && call == Call::Commit), || {
                format!("{end:?}, but only the removal of dangling entries failed")
            });
        }
        (End::Count(_) | End::Answer(_) | End::Refused(_), Some(_)) => {}
    }
    checks.0
}

/// Runs scenarios, and prints the size of the matrix.
async fn run(name: &str, mut matrix: Matrix, scenarios: impl IntoIterator<Item = Scenario>) {
    let start = Instant::now();
    for scenario in scenarios {
        matrix.size.scenarios += 1;
        matrix.run_scenario(&scenario).await;
    }
    let Size { scenarios, states, calls, cells } = matrix.size;
    let (kinds, seconds) = (matrix.faults.len(), start.elapsed().as_secs());
    // Not with println!, which the test harness captures.
    let size = format!(
        "every fault {name}: {scenarios} scenarios with {states} states, {calls} calls of the store in all, \
         {kinds} kinds of faults: {cells} cells in {seconds} s\n"
    );
    std::io::stdout().write_all(size.as_bytes()).expect("printed");
    let violations = &matrix.violations;
    let first: Vec<&str> = violations.iter().take(20).map(String::as_str).collect();
    assert!(
        violations.is_empty(),
        "{} violations, the first of them:\n{}",
        violations.len(),
        first.join("\n")
    );
}

/// The scenarios with few checkpoints, with and without a TTL.
fn small(layout: Layout) -> impl Iterator<Item = Scenario> {
    let all = [None, Some(HOUR)].into_iter().flat_map(move |ttl| scenarios(ttl, layout));
    all.filter(|scenario| !scenario.is_large)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_leaves_partial_writes_in_sqlite_native() {
    if !long_tests::are_requested("five of the six fault matrices") {
        return;
    }
    run("in SQLite, natively", Matrix::new(Backend::File, Mode::Native, None).await, small(Layout::Llmfy))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_leaves_partial_writes_in_sqlite_component() {
    run(
        "in SQLite, as the component",
        Matrix::new(Backend::File, Mode::Component, None).await,
        small(Layout::Llmfy),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_leaves_partial_writes_in_redis_component() {
    if !long_tests::are_requested("five of the six fault matrices") {
        return;
    }
    run(
        "in Redis, as the component",
        Matrix::new(Backend::Redis, Mode::Component, None).await,
        small(Layout::Llmfy),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_leaves_partial_writes_in_sqlite_component_partitioned() {
    if !long_tests::are_requested("five of the six fault matrices") {
        return;
    }
    let matrix = Matrix::new(Backend::File, Mode::Component, None).await;
    run("in partitions of SQLite, as the component", matrix, small(Layout::Partitioned)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_leaves_partial_writes_in_multi_step_operations() {
    if !long_tests::are_requested("five of the six fault matrices") {
        return;
    }
    let large = scenarios(Some(HOUR), Layout::Llmfy).into_iter().filter(|scenario| scenario.is_large);
    run("among very many", Matrix::new(Backend::File, Mode::Native, None).await, large).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_leaves_partial_writes_with_small_pages() {
    if !long_tests::are_requested("five of the six fault matrices") {
        return;
    }
    let small = scenarios(Some(HOUR), Layout::Llmfy).into_iter().filter(|scenario| !scenario.is_large);
    run("in pages of two", Matrix::new(Backend::File, Mode::Native, Some(2)).await, small).await;
}
