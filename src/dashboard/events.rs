//! News for all open pages at once.
//!
//! One task looks at the daemon each second and makes one text of it, for however many pages there
//! are; it ends when the last one is closed, and with it the cost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::View;

/// How often there are news.
const EVERY: Duration = Duration::from_secs(1);

/// Pages at once; browsers hold one connection for each.
pub const MAX_PAGES: usize = 16;

/// Events in one piece of news; a page that learns of more asks for the rest.
const EVENTS_TOLD: usize = 50;

/// Tells open pages the news. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    view: Arc<dyn View>,
    stop: CancellationToken,
    news: watch::Sender<Bytes>,
    /// Tells the news while somebody listens.
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Hub {
    pub(super) fn new(view: Arc<dyn View>, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            view,
            stop,
            news: watch::Sender::default(),
            task: Mutex::default(),
        }))
    }

    /// The news from now on as server-sent events, until the daemon stops; `None` where too many
    /// pages are open.
    ///
    /// A reader that is slow misses some: the next piece tells of everything that counts.
    #[must_use]
    pub fn subscribe(&self) -> Option<BoxStream<'static, Bytes>> {
        if self.0.news.receiver_count() >= MAX_PAGES {
            return None;
        }
        let news = self.0.news.subscribe();
        let mut task = self.task();
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            self.0.news.send_replace(Bytes::new());
            *task = Some(tokio::spawn(self.clone().run()));
        }
        drop(task);
        let first = Bytes::from_static(b"retry: 2000\n\n");
        let stop = self.0.stop.clone();
        let news = stream::unfold((news, stop), |(mut news, stop)| async move {
            stop.run_until_cancelled(news.changed()).await?.ok()?;
            let text = news.borrow_and_update().clone();
            Some((text, (news, stop)))
        });
        let news = stream::once(async { first }).chain(news);
        Some(
            news.filter(|text| std::future::ready(!text.is_empty()))
                .boxed(),
        )
    }

    async fn run(self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = self.0.view.stats().activity(0, 0).1;
        while self
            .0
            .stop
            .run_until_cancelled(ticks.tick())
            .await
            .is_some()
        {
            {
                let mut task = self.task();
                if self.0.news.receiver_count() == 0 {
                    *task = None;
                    return;
                }
            }
            let after = told;
            let (activity, newest) = self.0.view.stats().activity(after, EVENTS_TOLD);
            told = newest;
            let news = json!({
                "report": self.0.view.report().await,
                "activity": activity,
                "after": after,
                "newest": newest,
            });
            let text = Bytes::from(format!("data: {news}\n\n"));
            self.0.news.send_replace(text);
        }
    }

    fn task(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.0.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
