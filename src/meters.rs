//! What is counted while the daemon works: totals and durations, one set for the process.
//!
//! What can be read off at any moment (jobs by state, whether a pipeline is up) is not here: whoever serves the metrics
//! asks for it then. It knows nothing of how metrics are served. Labels are names of the configuration, never of files.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{CounterVec, Histogram, HistogramOpts, IntCounterVec, IntGaugeVec, Opts};

/// What every name begins with.
pub const PREFIX: &str = "rocketride_ingest_";

/// How a file ends.
const OUTCOMES: [&str; 4] = ["delivered", "adopted", "failed", "vanished"];
/// What makes ready work wait.
const LIMITS: [&str; 2] = ["files", "bytes"];
/// Whose fault it is that a file is tried again.
const RETRIES: [&str; 10] =
    ["pipeline", "task-died", "host", "descriptors", "stalled", "blocked", "changed", "stopping", "file", "failing"];
/// Why a whole folder is walked.
const RESCANS: [&str; 4] = ["start", "interval", "events-lost", "operator"];

/// Bounds of the histograms, in seconds.
const UPLOAD_BUCKETS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0];
const DETECTION_BUCKETS: [f64; 11] = [0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0];
const COMMIT_BUCKETS: [f64; 11] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// The totals of this process.
#[derive(Debug)]
pub struct Meters {
    /// By watch and outcome: delivered, adopted, failed, vanished.
    pub files: IntCounterVec,
    /// By pipeline: bytes that it acknowledged.
    pub uploaded_bytes: IntCounterVec,
    /// From the claim to the result, of delivered files.
    pub upload_duration: Histogram,
    /// From a file's last change until it is journaled.
    pub detection_delay: Histogram,
    /// One commit of the journal, made durable.
    pub journal_commit_duration: Histogram,
    /// By pipeline and kind: whose fault it was that a file is tried again.
    pub retries: IntCounterVec,
    /// By watch: files that a scan found and no event had told of.
    pub files_found_by_scan: IntCounterVec,
    /// By watch and reason.
    pub rescans: IntCounterVec,
    /// By pipeline and limit: seconds that work was ready and a limit made it wait.
    pub throttled_seconds: CounterVec,
    /// What the latest audit found that must not be; absent before the first.
    pub ledger_discrepancies: IntGaugeVec,
}

static METERS: LazyLock<Meters> = LazyLock::new(Meters::new);

/// The totals of this process.
pub fn meters() -> &'static Meters {
    &METERS
}

impl Meters {
    #[expect(clippy::expect_used, reason = "the names are constants, which a test tries")]
    fn new() -> Self {
        let name = |name: &str| format!("{PREFIX}{name}");
        let counters = |short: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name(short), help), labels).expect("a valid metric")
        };
        let histogram = |short: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name(short), help).buckets(buckets.to_vec());
            Histogram::with_opts(options).expect("a valid metric")
        };
        Self {
            files: counters("files_total", "Files that came to an end, by outcome.", &["watch", "outcome"]),
            uploaded_bytes: counters(
                "uploaded_bytes_total",
                "Bytes of files that the pipeline acknowledged.",
                &["pipeline"],
            ),
            upload_duration: histogram(
                "upload_duration_seconds",
                "From the claim of a file to its durable result.",
                &UPLOAD_BUCKETS,
            ),
            detection_delay: histogram(
                "detection_delay_seconds",
                "From the last change of a file until it is journaled, its settling included.",
                &DETECTION_BUCKETS,
            ),
            journal_commit_duration: histogram(
                "journal_commit_duration_seconds",
                "Applying a group of events and making it durable.",
                &COMMIT_BUCKETS,
            ),
            retries: counters(
                "retries_total",
                "Attempts that did not deliver, by whose fault it was.",
                &["pipeline", "kind"],
            ),
            files_found_by_scan: counters(
                "files_found_by_scan_total",
                "Files that a scan found and that no event had told of.",
                &["watch"],
            ),
            rescans: counters(
                "rescans_total",
                "Walks of a whole watched folder, by their reason.",
                &["watch", "reason"],
            ),
            ledger_discrepancies: IntGaugeVec::new(
                Opts::new(
                    name("ledger_discrepancies"),
                    "What the latest audit found that must not be; absent before the first.",
                ),
                &[],
            )
            .expect("a valid metric"),
            throttled_seconds: CounterVec::new(
                Opts::new(name("throttled_seconds_total"), "Time that ready work waited for a limit."),
                &["pipeline", "limit"],
            )
            .expect("a valid metric"),
        }
    }

    /// All of them, to be registered where they are served.
    pub fn collectors(&'static self) -> [Box<dyn Collector>; 10] {
        [
            Box::new(self.files.clone()),
            Box::new(self.uploaded_bytes.clone()),
            Box::new(self.upload_duration.clone()),
            Box::new(self.detection_delay.clone()),
            Box::new(self.journal_commit_duration.clone()),
            Box::new(self.retries.clone()),
            Box::new(self.files_found_by_scan.clone()),
            Box::new(self.rescans.clone()),
            Box::new(self.throttled_seconds.clone()),
            Box::new(self.ledger_discrepancies.clone()),
        ]
    }

    /// Makes the totals of a watch exist before anything was counted: an increase is seen from 0 only, and the first file
    /// that fails is the one that matters.
    pub fn begin_watch(&self, watch: &str) {
        for outcome in OUTCOMES {
            self.files.with_label_values(&[watch, outcome]);
        }
        self.files_found_by_scan.with_label_values(&[watch]);
        for reason in RESCANS {
            self.rescans.with_label_values(&[watch, reason]);
        }
    }

    /// As [`Meters::begin_watch`], for a pipeline.
    pub fn begin_pipeline(&self, pipeline: &str) {
        self.uploaded_bytes.with_label_values(&[pipeline]);
        for kind in RETRIES {
            self.retries.with_label_values(&[pipeline, kind]);
        }
        for limit in LIMITS {
            self.throttled_seconds.with_label_values(&[pipeline, limit]);
        }
    }

    /// A file of a watch came to this end.
    pub fn file_ended(&self, watch: &str, outcome: &str) {
        debug_assert!(OUTCOMES.contains(&outcome), "{outcome} has no series at 0");
        self.files.with_label_values(&[watch, outcome]).inc();
    }

    /// An attempt of a pipeline did not deliver, by this fault.
    pub fn retried(&self, pipeline: &str, kind: &str) {
        debug_assert!(RETRIES.contains(&kind), "{kind} has no series at 0");
        self.retries.with_label_values(&[pipeline, kind]).inc();
    }

    /// The whole folder of a watch is walked, for this reason.
    pub fn walked(&self, watch: &str, reason: &str) {
        debug_assert!(RESCANS.contains(&reason), "{reason} has no series at 0");
        self.rescans.with_label_values(&[watch, reason]).inc();
    }

    /// An audit found so much that must not be.
    pub fn audited(&self, differences: u64) {
        let differences = i64::try_from(differences).unwrap_or(i64::MAX);
        self.ledger_discrepancies.with_label_values::<&str>(&[]).set(differences);
    }

    /// A limit made ready work of a pipeline wait.
    pub fn throttled(&self, pipeline: &str, limit: &str, waited: Duration) {
        debug_assert!(LIMITS.contains(&limit), "{limit} has no series at 0");
        self.throttled_seconds.with_label_values(&[pipeline, limit]).inc_by(waited.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_with_labels_is_there_at_0_before_it_counts() {
        let meters = Meters::new();
        meters.begin_watch("in");
        meters.begin_pipeline("p");
        for counter in
            [&meters.files, &meters.uploaded_bytes, &meters.retries, &meters.files_found_by_scan, &meters.rescans]
        {
            let family = &counter.collect()[0];
            assert!(!family.get_metric().is_empty(), "{}", family.name());
        }
        assert_eq!(meters.throttled_seconds.collect()[0].get_metric().len(), LIMITS.len());
        assert_eq!(meters.retries.collect()[0].get_metric().len(), RETRIES.len());
        assert_eq!(meters.rescans.collect()[0].get_metric().len(), RESCANS.len());
    }

    #[test]
    fn every_metric_has_the_prefix_and_is_there_once() {
        let registry = prometheus::Registry::new();
        for collector in meters().collectors() {
            assert!(collector.desc().iter().all(|desc| desc.fq_name.starts_with(PREFIX)));
            registry.register(collector).unwrap();
        }
        meters().begin_watch("in");
        meters().begin_pipeline("p");
        meters().file_ended("in", "delivered");
        meters().throttled("p", "files", Duration::from_millis(5));
        let names: Vec<_> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
        assert!(names.contains(&"rocketride_ingest_files_total".to_owned()), "{names:?}");
    }
}
