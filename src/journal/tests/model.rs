//! Any history over a few files: the journal agrees with a map, and a restart changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use proptest::prelude::*;

/// A watch that is one of two, and a path that is one of three, one of them long enough for further rows.
fn file(n: usize) -> (FileKey, PathBuf) {
    let path = PathBuf::from(["a", "b/c", &"long/".repeat(500)][n % 3]);
    (FileKey::new(WatchId::of(["one", "two"][n / 3]), &path), path)
}

fn any_event() -> impl Strategy<Value = Event> {
    let time = 1..100_u64;
    prop_oneof![
        3 => (time.clone(), 1..5_u64).prop_map(|(at, size)| admit(size, at)),
        3 => time.clone().prop_map(|at| Event::Claim { at }),
        1 => any::<bool>().prop_map(|post_action| Event::Delivered {
            sha256: [3; 32],
            sidecar: "r".to_owned(),
            post_action,
            warning: None
        }),
        1 => any::<bool>().prop_map(|gone| Event::Finished { warning: None, gone }),
        1 => (time.clone(), 0..3000_usize, any::<bool>()).prop_map(|(due, length, charged)| Event::Retry {
            due,
            error: "e".repeat(length),
            charged
        }),
        1 => (time.clone(), 0..3_u32).prop_map(|(due, attempts)| Event::Refund { due, attempts }),
        1 => time.clone().prop_map(|due| Event::Changed { due, reason: "it grew".into() }),
        1 => Just(Event::Fail { error: "no".to_owned(), sidecar: None, charged: true }),
        1 => time.clone().prop_map(|due| Event::Block { due, error: "no".to_owned() }),
        1 => Just(Event::Gone),
        1 => (time.clone(), any::<bool>()).prop_map(|(at, delivered_too)| Event::Requeue { at, delivered_too }),
        1 => (time.clone(), any::<bool>()).prop_map(|(at, watched)| Event::Recover { at, watched }),
        1 => (1..5_u64, any::<bool>(), time).prop_map(|(size, post_action, at)| Event::Adopt {
            generation: generation(size),
            sha256: [4; 32],
            sidecar: "r".to_owned(),
            post_action,
            at
        }),
    ]
}

#[derive(Default)]
struct Model {
    jobs: BTreeMap<FileKey, Job>,
    ledgers: BTreeMap<WatchId, Counters>,
}

impl Model {
    fn apply(&mut self, key: FileKey, path: &Path, event: Event) -> Result<Job, Refused> {
        let ledger = self.ledgers.entry(key.watch).or_default();
        let after = crate::job::transition(path, self.jobs.get(&key), event, ledger)?;
        self.jobs.insert(key, after.clone());
        Ok(after)
    }

    /// Forgets all that may be forgotten; how many that were.
    fn prune(&mut self) -> u64 {
        let (jobs, ledgers) = (&mut self.jobs, &mut self.ledgers);
        let before = jobs.len();
        jobs.retain(|key, job| crate::job::prune(job, ledgers.get_mut(&key.watch).unwrap()).is_err());
        (before - jobs.len()) as u64
    }

    fn assert_agrees(&self, journal: &Journal) {
        for name in ["one", "two"] {
            let watch = WatchId::of(name);
            let ledger = self.ledgers.get(&watch).copied().unwrap_or_default();
            assert!(ledger.balanced());
            assert_eq!(journal.counters(watch), ledger);
            let jobs: Vec<_> = self.jobs.iter().filter(|(key, _)| key.watch == watch).collect();
            let stored = journal.jobs(watch, None, 99).unwrap();
            assert_eq!(stored.iter().map(|(key, job)| (key, job)).collect::<Vec<_>>(), jobs);
            let due: BTreeSet<_> = jobs.iter().filter_map(|(key, job)| Some((**key, job.state.due()?))).collect();
            let stored = journal.due(watch, 0, Millis::MAX, 99).unwrap();
            assert!(stored.is_sorted_by_key(|(_, due)| *due));
            assert_eq!(stored.into_iter().collect::<BTreeSet<_>>(), due);
        }
        assert_eq!(journal.totals(), sum(self.ledgers.values()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_journal_is_a_map_that_survives(
        groups in proptest::collection::vec(proptest::collection::vec((0..6_usize, any_event()), 1..12), 1..20),
        restart in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = TempDir::new().unwrap();
            let (mut journal, mut model) = (open(&dir), Model::default());
            for (n, group) in groups.iter().enumerate() {
                let events: Vec<_> = group.iter().map(|(n, event)| {
                    let (key, path) = file(*n);
                    (key, path, event.clone())
                }).collect();
                let expected: Vec<_> =
                    events.iter().map(|(key, path, event)| model.apply(*key, path, event.clone())).collect();
                assert_eq!(journal.apply_all(events).await.unwrap(), expected);
                model.assert_agrees(&journal);
                if n % 3 == 2 {
                    let keys: Vec<_> = (0..6).map(|n| file(n).0).collect();
                    assert_eq!(journal.prune(&keys).await.unwrap(), model.prune());
                    model.assert_agrees(&journal);
                }
                if n == restart.index(groups.len()) {
                    journal.close().await;
                    journal = open(&dir);
                    model.assert_agrees(&journal);
                }
            }
            journal.close().await;
            model.assert_agrees(&open(&dir));
        });
    }
}
