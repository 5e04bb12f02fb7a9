//! A file with a job: bare, or in the envelope that `nomad job run -output` prints.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::Job;

/// A job as a file has it: bare, or in an envelope. Written as it was read.
///
/// ```
/// use mesh_nomad::model::JobDocument;
///
/// let document: JobDocument = serde_json::from_str(r#"{"Job":{"ID":"web"}}"#)?;
/// assert_eq!(document.job().id.text(), "web");
/// assert_eq!(serde_json::to_string(&document)?, r#"{"Job":{"ID":"web"}}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct JobDocument {
    job: Job,
    /// What stands beside the job in its envelope, if it has one.
    envelope: Option<Map<String, Value>>,
}

// === impl JobDocument ===

impl JobDocument {
    /// The job.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The job alone.
    pub fn into_job(self) -> Job {
        self.job
    }

    /// The same document with another job.
    #[must_use]
    pub fn with_job(self, job: Job) -> Self {
        Self { job, ..self }
    }
}

impl From<Job> for JobDocument {
    fn from(job: Job) -> Self {
        Self {
            job,
            envelope: None,
        }
    }
}

impl<'de> Deserialize<'de> for JobDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Map::deserialize(deserializer)?;
        let wrapped = object.get("Job").is_some_and(Value::is_object);
        let inner = if wrapped { object.remove("Job") } else { None };
        let (job, envelope) = match inner {
            Some(job) => (job, Some(object)),
            None => (Value::Object(object), None),
        };
        let job = Job::deserialize(job).map_err(serde::de::Error::custom)?;
        Ok(Self { job, envelope })
    }
}

impl Serialize for JobDocument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(envelope) = &self.envelope else {
            return self.job.serialize(serializer);
        };
        serializer.collect_map(
            std::iter::once(("Job", Part::Job(&self.job))).chain(
                envelope
                    .iter()
                    .map(|(key, value)| (key.as_str(), Part::Other(value))),
            ),
        )
    }
}

/// What an envelope holds.
#[derive(Serialize)]
#[serde(untagged)]
enum Part<'a> {
    Job(&'a Job),
    Other(&'a Value),
}
