//! JSON Schemas of what crosses a process boundary, derived from the types themselves.

/// What the conductor says to a runner.
#[must_use]
pub fn request() -> serde_json::Value {
    schemars::schema_for!(crate::protocol::Request).to_value()
}

/// What a runner answers.
#[must_use]
pub fn response() -> serde_json::Value {
    schemars::schema_for!(crate::protocol::Response).to_value()
}

/// A file of chips, such as those in `chips/`.
#[must_use]
pub fn chips() -> serde_json::Value {
    schemars::schema_for!(crate::chips::ChipFile).to_value()
}

/// What `chipmark compare --format json` prints.
#[must_use]
pub fn comparison() -> serde_json::Value {
    schemars::schema_for!(crate::compare::Comparison).to_value()
}
