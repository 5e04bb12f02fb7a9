//! Calls made by several callers at a time, and how long each took.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::task::JoinSet;

use crate::report::{measure, percentile};

/// What a load came to.
pub(crate) struct Load {
    seconds: f64,
    /// Milliseconds of each call, sorted.
    latencies: Vec<f64>,
}

impl Load {
    /// Has so many callers make `count` calls in all, each caller one after the other; `call` is
    /// given the number of the call.
    pub(crate) async fn run<F: Future<Output = ()> + Send + 'static>(
        callers: usize,
        count: usize,
        call: impl Fn(usize) -> F + Clone + Send + 'static,
    ) -> Self {
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let began = Instant::now();
        for _ in 0..callers {
            let (next, call) = (Arc::clone(&next), call.clone());
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return latencies;
                    }
                    let began = Instant::now();
                    call(number).await;
                    latencies.push(began.elapsed().as_secs_f64() * 1e3);
                }
            });
        }
        let latencies = tasks.join_all().await;
        let seconds = began.elapsed().as_secs_f64();
        let mut latencies = latencies.concat();
        latencies.sort_by(f64::total_cmp);
        assert_eq!(latencies.len(), count, "every call was made");
        Self { seconds, latencies }
    }

    /// How many calls were made.
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    pub(crate) fn count(&self) -> f64 {
        self.latencies.len() as f64
    }

    /// Calls per second.
    pub(crate) fn per_second(&self) -> f64 {
        self.count() / self.seconds
    }

    /// Tells how long half of the calls took at most, and all but a hundredth; against another
    /// load that told the same.
    pub(crate) fn percentiles(&self, name: &str, against: Option<&str>) {
        for share in [50, 99] {
            let of = |name: &str| format!("{name}, p{share}");
            let value = percentile(&self.latencies, share);
            measure(&of(name), value, "ms", against.map(of).as_deref());
        }
    }
}
