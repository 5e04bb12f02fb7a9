//! What holds of the job model for any job.

use mesh_nomad::model::{Field, Job, JobDocument, Object as _};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::generate::{any_job, any_value};

proptest! {
    #[test]
    fn a_job_comes_out_as_it_went_in(value in any_job()) {
        let job: Job = serde_json::from_value(value.clone()).unwrap();
        prop_assert_eq!(serde_json::to_value(&job).unwrap(), value.clone());
        let text = serde_json::to_string(&value).unwrap();
        let job: Job = serde_json::from_str(&text).unwrap();
        let again: Value = serde_json::from_str(&serde_json::to_string(&job).unwrap()).unwrap();
        prop_assert_eq!(again, serde_json::from_str::<Value>(&text).unwrap());
    }

    #[test]
    fn an_envelope_comes_out_as_it_went_in(job in any_job(), beside in any_value()) {
        let value = json!({ "Job": job, "Submission": beside, "EnforceIndex": true });
        let document: JobDocument = serde_json::from_value(value.clone()).unwrap();
        prop_assert_eq!(serde_json::to_value(&document).unwrap(), value);
    }
}

#[test]
fn kinds_of_numbers_are_kept() {
    let text = r#"{"xF":1.0,"xI":1,"xU":18446744073709551615,"Version":18446744073709551615}"#;
    let job: Job = serde_json::from_str(text).unwrap();
    assert_eq!(job.version, Field::Set(u64::MAX));
    let again = serde_json::to_value(&job).unwrap();
    assert!(again["xF"].is_f64() && again["xI"].is_i64() && again["xU"].is_u64());
}

#[test]
fn an_error_names_the_field() {
    let text = r#"{"TaskGroups":[{"Tasks":[{"KillTimeout":"30s"}]}]}"#;
    let error = serde_json::from_str::<Job>(text).unwrap_err().to_string();
    assert!(
        error.starts_with("TaskGroups: Tasks: KillTimeout: invalid type: string \"30s\""),
        "{error}"
    );
}

#[test]
fn a_key_in_another_case_is_noticed() {
    let job: Job = serde_json::from_str(r#"{"taskgroups":[],"xOther":1}"#).unwrap();
    assert_eq!(
        job.misspelt().collect::<Vec<_>>(),
        [("taskgroups", "TaskGroups")]
    );
}
