//! `/metrics`: what was counted, and what can be read off now, in the text format of Prometheus.
//!
//! Gauges are made for each answer from what runs at that moment, so a watch that left the configuration leaves no series
//! behind. Labels are names of the configuration, never of files.

use std::sync::atomic::Ordering;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, Gauge, GaugeVec, IntCounter, IntGaugeVec, Opts, Registry, TextEncoder};

use super::wire::Status;
use super::{Desk, status};
use crate::meters::{PREFIX, meters};

/// A name that everybody's dashboards know.
const PROCESS_START: &str = "process_start_time_seconds";
/// The type of the text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Seconds of a time on the wall clock.
#[allow(clippy::cast_precision_loss)] // a float has room for milliseconds of thousands of years
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// Everything that is measured. Blocks for a moment.
///
/// Errors: two metrics of one name, which a test would have shown.
pub fn text(desk: &Desk) -> prometheus::Result<Vec<u8>> {
    let registry = Registry::new();
    for collector in meters().collectors() {
        registry.register(collector)?;
    }
    let gauges = Gauges { registry: &registry };
    gauges.of_status(&status::status(desk))?;
    gauges.of_process(desk)?;
    // It reads its start off a file that the unit's sandbox hides, and then says 1970.
    let mut families = ProcessCollector::for_self().collect();
    families.retain(|family| family.name() != PROCESS_START);
    let start = Gauge::new(PROCESS_START, "When the process started, in seconds since the epoch.")?;
    start.set(seconds(desk.started_at));
    families.extend(start.collect());
    families.extend(registry.gather());
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(text)
}

struct Gauges<'a> {
    registry: &'a Registry,
}

impl Gauges<'_> {
    fn add<C: Collector + Clone + 'static>(&self, gauge: prometheus::Result<C>) -> prometheus::Result<C> {
        let gauge = gauge?;
        self.registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    fn whole(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(format!("{PREFIX}{name}"), help), labels))
    }

    fn real(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(format!("{PREFIX}{name}"), help), labels))
    }

    fn of_status(&self, status: &Status) -> prometheus::Result<()> {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let jobs = self.whole("jobs", "Files the journal knows, by state.", &["watch", "state"])?;
        let watch_up = self.whole("watch_up", "Whether the watched folder can be used.", &["watch"])?;
        let watch_info = self.whole(
            "watch_info",
            "How the watch notices files and writers.",
            &["watch", "backend", "writer_check"],
        )?;
        let paused = self.whole("paused", "Whether an operator paused it.", &["kind", "name"])?;
        let oldest = self.real(
            "oldest_pending_timestamp_seconds",
            "Since when the job is due that has waited longest; absent when nothing waits.",
            &["watch"],
        )?;
        for watch in &status.watches {
            let name = watch.name.as_str();
            meters().begin_watch(name);
            for (state, count) in &watch.jobs {
                jobs.with_label_values(&[name, state]).set(whole(*count));
            }
            watch_up.with_label_values(&[name]).set(watch.up.into());
            let backend = if watch.polls.is_some() { "poll" } else { "events" };
            let writers = match watch.writer_check.as_deref() {
                Some("yes") => "yes",
                Some(_) => "no",
                None => "unknown",
            };
            watch_info.with_label_values(&[name, backend, writers]).set(1);
            paused.with_label_values(&["watch", name]).set(watch.paused_since.is_some().into());
            if let Some(since) = watch.oldest_pending {
                oldest.with_label_values(&[name]).set(seconds(since));
            }
        }
        let pipeline_up = self.whole("pipeline_up", "Whether the pipeline takes files.", &["pipeline"])?;
        let in_flight = self.whole("uploads_in_flight", "Uploads under way.", &["pipeline"])?;
        let success = self.real(
            "last_success_timestamp_seconds",
            "When the pipeline last took a file since the start; absent before the first.",
            &["pipeline"],
        )?;
        for pipeline in &status.pipelines {
            let name = pipeline.name.as_str();
            meters().begin_pipeline(name);
            pipeline_up.with_label_values(&[name]).set(pipeline.up.into());
            in_flight.with_label_values(&[name]).set(whole(pipeline.in_flight));
            paused.with_label_values(&["pipeline", name]).set(pipeline.paused_since.is_some().into());
            if let Some(at) = pipeline.last_success {
                success.with_label_values(&[name]).set(seconds(at));
            }
        }
        let spooled = status.watches.iter().filter_map(|watch| watch.jobs.get("spooled")).sum();
        self.one("spooled_results", "Results that wait in the spool for a writable folder.", spooled)?;
        let min_free = status.state.min_free_bytes;
        self.one("state_min_free_bytes", "Below this free space nothing new is sent (state.min_free).", min_free)?;
        if let Some(free) = status.state.free_bytes {
            self.one("state_free_bytes", "Free space of the state directory's filesystem.", free)?;
        }
        if let Some(bytes) = status.state.journal_bytes {
            self.one("journal_bytes", "Bytes of the journal on disk.", bytes)?;
        }
        Ok(())
    }

    fn of_process(&self, desk: &Desk) -> prometheus::Result<()> {
        let build = self.whole("build_info", "The program; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let reloaded = u64::from(desk.reloaded.load(Ordering::Relaxed));
        self.one(
            "config_last_reload_successful",
            "Whether the last reload of the configuration was applied.",
            reloaded,
        )?;
        let panics = IntCounter::new(format!("{PREFIX}task_panics_total"), "Panics of any task; each is a defect.");
        self.add(panics)?.inc_by(crate::panics::count());
        Ok(())
    }

    fn one(&self, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
        self.whole(name, help, &[])?.with_label_values::<&str>(&[]).set(i64::try_from(value).unwrap_or(i64::MAX));
        Ok(())
    }
}
