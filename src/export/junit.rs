//! JUnit: a suite a report, a case an outcome. What crashed is an error, what cannot be believed a
//! failure, what was left out is skipped, each with its reason.

use quick_junit::{NonSuccessKind, Property, TestCase, TestCaseStatus, TestSuite};

use super::Named;
use crate::error::{Error, Result};
use crate::report::OutcomeStatus;

pub fn write(reports: &[Named]) -> Result<String> {
    let mut document = quick_junit::Report::new("chipmark");
    for (name, report) in reports {
        let mut suite = TestSuite::new(format!("{} ({name})", report.suite.name));
        for (key, value) in [
            ("device", &report.device.name),
            ("driver", &report.device.driver),
            ("report_id", &report.report_id),
        ] {
            suite.add_property(Property::new(key, value));
        }
        for outcome in &report.outcomes {
            let bad = |kind, what: &str| {
                let mut status = TestCaseStatus::non_success(kind);
                status.set_type(what);
                status.set_message(outcome.reason.as_deref().unwrap_or_default());
                status
            };
            let status = match outcome.status {
                OutcomeStatus::Measured => TestCaseStatus::success(),
                OutcomeStatus::Skipped => {
                    let mut status = TestCaseStatus::skipped();
                    status.set_message(outcome.reason.as_deref().unwrap_or_default());
                    status
                }
                OutcomeStatus::Failed => bad(NonSuccessKind::Error, "failed"),
                OutcomeStatus::Implausible => bad(NonSuccessKind::Failure, "implausible"),
            };
            let mut case = TestCase::new(&outcome.case_id, status);
            case.set_classname(&outcome.runner);
            if let Some(times) = &outcome.time_s {
                let median = std::time::Duration::try_from_secs_f64(times.median);
                case.set_time(median.unwrap_or_default());
                case.add_property(Property::new("median_s", times.median.to_string()));
            }
            suite.add_test_case(case);
        }
        document.add_test_suite(suite);
    }
    document
        .to_string()
        .map_err(|error| Error::internal(format!("export junit: {error}")))
}
