//! What the rows hold: a version byte, then postcard of structs that exist only here.
//!
//! It must not know of sled, and shares no struct with the rest of the program: what is written on disk changes
//! only here, by a new version byte. Inside the version, enum variants and the order of [`STATE_NAMES`] are part of
//! the format: both only grow at their end.
//!
//! A record is cut into rows of at most [`MAX_VALUE`] bytes, for sled puts large values into files that it does not
//! make durable. The first row is `version, number of further rows (u16, little-endian), payload`; the further rows
//! hold nothing but payload.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::job::{self, Counters, Generation, Job, JobState, Millis, STATE_NAMES};

/// The version that is written of all rows but the journal's own.
const VERSION: u8 = 1;
/// The version that is written of the journal's own row; version 1 had no sequence number.
const META_VERSION: u8 = 3;
/// The same, of a journal whose records stand at keys that hash the whole path alone: they are moved at the next opening.
const META_SCATTERED: u8 = 2;
/// Longest value of a row, in bytes.
pub(super) const MAX_VALUE: usize = 900;
/// What stands before the payload in the first row of a record.
const HEAD: usize = 3;

/// Why bytes are no row of ours, or a record cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    /// The row is shorter than what every row begins with.
    #[error("the row is cut short")]
    Short,
    /// Nobody we know writes this version.
    #[error("the row has the unknown version {0}")]
    Version(u8),
    /// A record and its further rows do not fit together.
    #[error("the record has {found} further rows and should have {expected}")]
    Rows {
        /// Rows found.
        found: usize,
        /// Rows that the first one names.
        expected: u16,
    },
    /// The payload does not parse.
    #[error("the row does not parse: {0}")]
    Payload(postcard::Error),
    /// Something follows the payload.
    #[error("{0} bytes follow the row's content")]
    Trailing(usize),
    /// More states than there are.
    #[error("the row counts {0} states")]
    States(usize),
    /// The record is larger than 65,535 rows.
    #[error("the record of {0} bytes is too large")]
    TooLarge(usize),
}

#[derive(Serialize, Deserialize)]
struct WireJob {
    path: Vec<u8>,
    generation: WireGeneration,
    state: WireState,
    attempts: u32,
    changes: u8,
    admitted_at: Millis,
    first_attempt_at: Option<Millis>,
    last_attempt_at: Option<Millis>,
    last_error: Option<String>,
    sha256: Option<job::ContentHash>,
    sidecar: Option<String>,
    absent: bool,
}

#[derive(Serialize, Deserialize)]
struct WireGeneration {
    ino: Option<u64>,
    size: u64,
    mtime_ns: i64,
    ctime_ns: Option<i64>,
}

#[derive(Serialize, Deserialize)]
enum WireState {
    Pending { due: Millis },
    Sending,
    Delivered,
    Done,
    Failed,
    Blocked { due: Millis },
    Vanished,
    Ignored,
    Parked,
    Spooled,
}

/// The states as a list, so that a state more does not change the format: what is missing counts 0.
#[derive(Serialize, Deserialize)]
struct WireCounters {
    admitted: u64,
    states: Vec<u64>,
    superseded: u64,
    pruned: u64,
}

#[derive(Serialize, Deserialize)]
struct WireWatch {
    name: String,
    counters: WireCounters,
}

#[derive(Serialize, Deserialize)]
struct WireMeta {
    id: [u8; 16],
    totals: WireCounters,
    sequence: u64,
}

#[derive(Deserialize)]
struct WireMetaV1 {
    id: [u8; 16],
    totals: WireCounters,
}

/// What the journal says of itself, in every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    /// Whose journal it is.
    pub(super) id: Uuid,
    /// Number of the batch.
    pub(super) sequence: u64,
    /// The sum of the ledgers.
    pub(super) totals: Counters,
}

/// The rows of a record: the first one, then the further ones.
pub(super) fn encode(job: &Job) -> Result<Vec<Vec<u8>>, CodecError> {
    let payload = postcard::to_stdvec(&WireJob::from(job)).map_err(CodecError::Payload)?;
    let (first, rest) = payload.split_at(payload.len().min(MAX_VALUE - HEAD));
    let rest = rest.chunks(MAX_VALUE);
    let further = u16::try_from(rest.len()).map_err(|_| CodecError::TooLarge(payload.len()))?;
    let head = [&[VERSION][..], &further.to_le_bytes(), first].concat();
    Ok(std::iter::once(head).chain(rest.map(<[u8]>::to_vec)).collect())
}

/// How many further rows the first row of a record names.
pub(super) fn further_rows(first: &[u8]) -> Result<u16, CodecError> {
    match first {
        [VERSION, low, high, ..] => Ok(u16::from_le_bytes([*low, *high])),
        [version, _, _, ..] => Err(CodecError::Version(*version)),
        _ => Err(CodecError::Short),
    }
}

/// A record from its rows.
pub(super) fn decode<R: AsRef<[u8]>>(first: &[u8], rest: &[R]) -> Result<Job, CodecError> {
    let expected = further_rows(first)?;
    if usize::from(expected) != rest.len() {
        return Err(CodecError::Rows { found: rest.len(), expected });
    }
    if rest.is_empty() {
        return payload::<WireJob>(&first[HEAD..]).map(Job::from);
    }
    let mut whole = first[HEAD..].to_vec();
    for row in rest {
        whole.extend_from_slice(row.as_ref());
    }
    payload::<WireJob>(&whole).map(Job::from)
}

/// The row of a watch.
pub(super) fn encode_watch(name: &str, counters: &Counters) -> Result<Vec<u8>, CodecError> {
    versioned(&WireWatch { name: name.to_owned(), counters: counters.into() })
}

/// Name and ledger of a watch.
pub(super) fn decode_watch(row: &[u8]) -> Result<(String, Counters), CodecError> {
    let watch: WireWatch = unversioned(row)?;
    Ok((watch.name, watch.counters.try_into()?))
}

/// The row of the journal itself.
pub(super) fn encode_meta(meta: &Meta) -> Result<Vec<u8>, CodecError> {
    let wire = WireMeta { id: meta.id.into_bytes(), totals: (&meta.totals).into(), sequence: meta.sequence };
    postcard::to_extend(&wire, vec![META_VERSION]).map_err(CodecError::Payload)
}

/// The row of the journal itself as the first format had it.
#[cfg(test)]
pub(super) fn encode_meta_1(meta: &Meta) -> Vec<u8> {
    let fields = (meta.id.into_bytes(), WireCounters::from(&meta.totals));
    postcard::to_extend(&fields, vec![VERSION]).unwrap()
}

/// What the row of the journal itself says.
pub(super) fn decode_meta(row: &[u8]) -> Result<Meta, CodecError> {
    let wire = if let [META_VERSION | META_SCATTERED, rest @ ..] = row {
        payload(rest)?
    } else {
        let WireMetaV1 { id, totals } = unversioned(row)?;
        WireMeta { id, totals, sequence: 0 }
    };
    Ok(Meta { id: Uuid::from_bytes(wire.id), sequence: wire.sequence, totals: wire.totals.try_into()? })
}

/// Whether the row of the journal itself was written when the keys of records were hashes of the whole path alone.
pub(super) fn has_scattered_keys(meta: &[u8]) -> bool {
    meta.first().is_some_and(|version| *version < META_VERSION)
}

fn versioned(value: &impl Serialize) -> Result<Vec<u8>, CodecError> {
    postcard::to_extend(value, vec![VERSION]).map_err(CodecError::Payload)
}

fn unversioned<T: DeserializeOwned>(row: &[u8]) -> Result<T, CodecError> {
    match row {
        [VERSION, rest @ ..] => payload(rest),
        [version, ..] => Err(CodecError::Version(*version)),
        [] => Err(CodecError::Short),
    }
}

fn payload<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match postcard::take_from_bytes(bytes).map_err(CodecError::Payload)? {
        (value, []) => Ok(value),
        (_, rest) => Err(CodecError::Trailing(rest.len())),
    }
}

impl From<&Job> for WireJob {
    fn from(job: &Job) -> Self {
        let Generation { ino, size, mtime_ns, ctime_ns } = job.generation;
        Self {
            path: job.path.as_os_str().as_bytes().to_vec(),
            generation: WireGeneration { ino, size, mtime_ns, ctime_ns },
            state: job.state.into(),
            attempts: job.attempts,
            changes: job.changes,
            admitted_at: job.admitted_at,
            first_attempt_at: job.first_attempt_at,
            last_attempt_at: job.last_attempt_at,
            last_error: job.last_error.clone(),
            sha256: job.sha256,
            sidecar: job.sidecar.clone(),
            absent: job.absent,
        }
    }
}

impl From<WireJob> for Job {
    fn from(wire: WireJob) -> Self {
        let WireGeneration { ino, size, mtime_ns, ctime_ns } = wire.generation;
        Self {
            path: OsString::from_vec(wire.path).into(),
            generation: Generation { ino, size, mtime_ns, ctime_ns },
            state: wire.state.into(),
            attempts: wire.attempts,
            changes: wire.changes,
            admitted_at: wire.admitted_at,
            first_attempt_at: wire.first_attempt_at,
            last_attempt_at: wire.last_attempt_at,
            last_error: wire.last_error,
            sha256: wire.sha256,
            sidecar: wire.sidecar,
            absent: wire.absent,
        }
    }
}

impl From<JobState> for WireState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Pending { due } => Self::Pending { due },
            JobState::Sending => Self::Sending,
            JobState::Delivered => Self::Delivered,
            JobState::Done => Self::Done,
            JobState::Failed => Self::Failed,
            JobState::Blocked { due } => Self::Blocked { due },
            JobState::Vanished => Self::Vanished,
            JobState::Ignored => Self::Ignored,
            JobState::Parked => Self::Parked,
            JobState::Spooled => Self::Spooled,
        }
    }
}

impl From<WireState> for JobState {
    fn from(state: WireState) -> Self {
        match state {
            WireState::Pending { due } => Self::Pending { due },
            WireState::Sending => Self::Sending,
            WireState::Delivered => Self::Delivered,
            WireState::Done => Self::Done,
            WireState::Failed => Self::Failed,
            WireState::Blocked { due } => Self::Blocked { due },
            WireState::Vanished => Self::Vanished,
            WireState::Ignored => Self::Ignored,
            WireState::Parked => Self::Parked,
            WireState::Spooled => Self::Spooled,
        }
    }
}

impl From<&Counters> for WireCounters {
    fn from(counters: &Counters) -> Self {
        let Counters { admitted, states, superseded, pruned } = *counters;
        Self { admitted, states: states.to_vec(), superseded, pruned }
    }
}

impl TryFrom<WireCounters> for Counters {
    type Error = CodecError;

    fn try_from(wire: WireCounters) -> Result<Self, CodecError> {
        let mut states = [0; STATE_NAMES.len()];
        states.get_mut(..wire.states.len()).ok_or(CodecError::States(wire.states.len()))?.copy_from_slice(&wire.states);
        Ok(Self { admitted: wire.admitted, states, superseded: wire.superseded, pruned: wire.pruned })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option;
    use proptest::prelude::*;
    use std::path::Path;

    fn any_state() -> impl Strategy<Value = JobState> {
        prop_oneof![
            any::<u64>().prop_map(|due| JobState::Pending { due }),
            any::<u64>().prop_map(|due| JobState::Blocked { due }),
            Just(JobState::Sending),
            Just(JobState::Delivered),
            Just(JobState::Done),
            Just(JobState::Failed),
            Just(JobState::Vanished),
            Just(JobState::Ignored),
            Just(JobState::Parked),
            Just(JobState::Spooled),
        ]
    }

    fn any_job() -> impl Strategy<Value = Job> {
        let path = proptest::collection::vec(1..=255u8, 1..4096);
        let generation = (any::<Option<u64>>(), any::<u64>(), any::<i64>(), any::<Option<i64>>())
            .prop_map(|(ino, size, mtime_ns, ctime_ns)| Generation { ino, size, mtime_ns, ctime_ns });
        let times = (any::<u64>(), any::<Option<u64>>(), any::<Option<u64>>());
        let words = (option::of(".{0,2000}"), option::of(".{0,255}"));
        (path, generation, any_state(), any::<(u32, u8, bool)>(), times, words, any::<Option<[u8; 32]>>()).prop_map(
            |(path, generation, state, (attempts, changes, absent), times, (last_error, sidecar), sha256)| Job {
                path: OsString::from_vec(path).into(),
                generation,
                state,
                attempts,
                changes,
                admitted_at: times.0,
                first_attempt_at: times.1,
                last_attempt_at: times.2,
                last_error,
                sha256,
                sidecar,
                absent,
            },
        )
    }

    fn assert_round_trip(job: &Job) {
        let rows = encode(job).unwrap();
        assert!(rows.iter().all(|row| row.len() <= MAX_VALUE));
        assert_eq!(usize::from(further_rows(&rows[0]).unwrap()), rows.len() - 1);
        assert_eq!(decode(&rows[0], &rows[1..]).as_ref(), Ok(job));
    }

    fn job(path: &Path) -> Job {
        let generation = Generation { ino: Some(1), size: 2, mtime_ns: -3, ctime_ns: Some(4) };
        let event = job::Event::Admit { generation, at: 5 };
        job::transition(path, None, event, &mut Counters::default()).unwrap()
    }

    #[test]
    fn paths_of_any_length_and_any_bytes_come_back() {
        for length in [1, MAX_VALUE - 60, MAX_VALUE, MAX_VALUE + 1, 2 * MAX_VALUE, 4096, 9000] {
            assert_round_trip(&job(Path::new(&"p".repeat(length))));
        }
        assert_round_trip(&job(Path::new(&OsString::from_vec(b"in\xff\xfe\n/b\x80d".to_vec()))));
    }

    #[test]
    fn the_format_is_what_earlier_versions_wrote() {
        let expected =
            [&[1, 0, 0][..], &[3], b"a/b", &[1, 1, 2, 5, 1, 8], &[0, 5], &[0, 0, 5, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(encode(&job(Path::new("a/b"))).unwrap(), [expected]);
        let names = [
            "pending",
            "sending",
            "delivered",
            "done",
            "failed",
            "blocked",
            "vanished",
            "ignored",
            "parked",
            "spooled",
        ];
        assert_eq!(STATE_NAMES[..names.len()], names, "counters are stored in this order");
    }

    #[test]
    fn a_journal_of_before_the_sequence_numbers_is_read_as_its_beginning() {
        let id = Uuid::from_bytes([7; 16]);
        let totals = Counters { admitted: 3, ..Counters::default() };
        let row = encode_meta_1(&Meta { id, sequence: 9, totals });
        assert_eq!(row[..2], [1, 7], "its identity has no length before it");
        assert_eq!(decode_meta(&row), Ok(Meta { id, sequence: 0, totals }));
    }

    #[test]
    fn counters_of_fewer_states_are_read_and_of_more_are_not() {
        let wire = |states| WireCounters { admitted: 2, states, superseded: 0, pruned: 0 };
        let read = Counters::try_from(wire(vec![2])).unwrap();
        assert_eq!((read.admitted, read.states[0], read.states[1]), (2, 2, 0));
        assert!(Counters::try_from(wire(vec![0; STATE_NAMES.len() + 1])).is_err());
    }

    #[test]
    fn a_missing_row_another_version_and_trailing_bytes_are_errors() {
        let rows = encode(&job(Path::new(&"p".repeat(2000)))).unwrap();
        assert_eq!(decode(&rows[0], &rows[1..2]), Err(CodecError::Rows { found: 1, expected: 2 }));
        let mut other = rows[0].clone();
        other[0] = 9;
        assert_eq!(decode(&other, &rows[1..]), Err(CodecError::Version(9)));
        let mut long = rows.clone();
        long[2].push(0);
        assert_eq!(decode(&long[0], &long[1..]), Err(CodecError::Trailing(1)));
        assert_eq!(decode::<Vec<u8>>(&[1, 0], &[]), Err(CodecError::Short));
    }

    proptest! {
        #[test]
        fn every_record_comes_back(job in any_job()) {
            assert_round_trip(&job);
        }

        #[test]
        fn watches_and_meta_come_back(name in ".{0,100}", id: [u8; 16], admitted: u64, states: [u64; STATE_NAMES.len()], superseded: u64) {
            let counters = Counters { admitted, states, superseded, pruned: admitted };
            prop_assert_eq!(decode_watch(&encode_watch(&name, &counters).unwrap()), Ok((name, counters)));
            let meta = Meta { id: Uuid::from_bytes(id), sequence: admitted, totals: counters };
            prop_assert_eq!(decode_meta(&encode_meta(&meta).unwrap()), Ok(meta));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), rest: Vec<Vec<u8>>) {
            let _ = decode(&bytes, &rest);
            if bytes.len() > HEAD {
                let further = u16::try_from(rest.len()).unwrap().to_le_bytes();
                bytes[..HEAD].copy_from_slice(&[VERSION, further[0], further[1]]);
            }
            let _ = (decode(&bytes, &rest), decode_watch(&bytes), decode_meta(&bytes));
        }

        #[test]
        fn a_damaged_record_is_read_without_a_panic(job in any_job(), row: prop::sample::Index, at: prop::sample::Index, byte: u8) {
            let mut rows = encode(&job).unwrap();
            let row = row.index(rows.len());
            let at = at.index(rows[row].len());
            rows[row][at] = byte;
            let _ = decode(&rows[0], &rows[1..]);
        }
    }
}
