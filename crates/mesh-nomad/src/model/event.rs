//! Events: what the server says of changes as they happen. A hint, never the truth: some changes
//! emit none.

use serde_json::Value;

object! {
    /// One line of the event stream: the events of one index; a heartbeat has neither.
    pub struct EventBatch {
        /// The index.
        index: u64 = "Index",
        /// What changed.
        events: Vec<Event> = "Events",
    }
}

object! {
    /// One change.
    pub struct Event {
        /// What kind of thing changed, as `Service`.
        topic: String = "Topic",
        /// Which message of the servers' log caused it, which is not what its effect was.
        kind: String = "Type",
        /// ID of the thing.
        key: String = "Key",
        /// Its namespace.
        namespace: String = "Namespace",
        /// Other names by which it can be filtered.
        filter_keys: Vec<String> = "FilterKeys",
        /// The index.
        index: u64 = "Index",
        /// The thing, under the name of its type.
        payload: Value = "Payload",
    }
}

// === impl EventBatch ===

impl EventBatch {
    /// Whether it says nothing but that the stream is alive.
    pub fn is_heartbeat(&self) -> bool {
        self.events.items().is_empty()
    }
}

// === impl Event ===

impl Event {
    /// Whether a service was removed. On the topic `Service` every type but the registration is a
    /// removal: the type is of the cause (an allocation that ended, a plan), not of the effect.
    pub fn removes_service(&self) -> bool {
        self.topic.text() == "Service" && self.kind.text() != "ServiceRegistration"
    }

    /// The service that it is about, if it is about one.
    pub fn service_name(&self) -> Option<&str> {
        self.payload
            .get()?
            .pointer("/Service/ServiceName")?
            .as_str()
    }
}
