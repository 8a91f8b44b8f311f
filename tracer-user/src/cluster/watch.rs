// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps a [`Store`] as the server has it: a list, then its changes, a new list where changes were missed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::api::{Api, ApiError, Change, Query};
use super::object::Object;
use super::store::{State, Store};

/// After the first failure; twice that after each further one.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(60);
/// A stream that says nothing for this long has nothing to say; what is wrong with it shows at once.
const QUIET: Duration = Duration::from_secs(2);
/// A stream that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(20);

/// Runs until it is dropped. Sets the store's state; never fails.
pub(super) async fn keep<K: Object>(api: Api, query: Query, store: Arc<Store<K>>) {
    let mut pause = SOON;
    loop {
        let begun = Instant::now();
        let error = match api.list::<K>(&query).await {
            Ok(list) => {
                let version = list.version;
                store.replace(list.objects);
                follow(&api, &query, &store, version).await
            }
            Err(error) => error,
        };
        // A list that grew too old is nobody's failure.
        if !error.is_gone() {
            store.set_state(state(&K::KIND, &error));
        }
        if begun.elapsed() > GOOD {
            pause = SOON;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LATE);
    }
}

/// Applies changes until some were missed, or none can be had.
async fn follow<K: Object>(api: &Api, query: &Query, store: &Store<K>, mut version: String) -> ApiError {
    let mut pause = SOON;
    loop {
        let begun = Instant::now();
        let error = match api.watch::<K>(query, &version).await {
            Ok(mut changes) => loop {
                let next = match timeout(QUIET, changes.next::<K>()).await {
                    Ok(next) => next,
                    // Nothing to tell is no trouble.
                    Err(_) => {
                        store.set_state(State::Known);
                        changes.next::<K>().await
                    }
                };
                match next {
                    Ok(Some(change)) => {
                        version = apply(store, change, version);
                        store.set_state(State::Known);
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            },
            Err(error) => Some(error),
        };
        match error {
            // The server ends each stream after a while, and when it is restarted.
            None => {}
            Some(error) if transient(&error) && pause < LATE => store.set_state(state(&K::KIND, &error)),
            Some(error) => return error,
        }
        if begun.elapsed() > GOOD {
            pause = SOON;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LATE);
    }
}

/// The next version to ask from.
fn apply<K: Object>(store: &Store<K>, change: Change<K>, version: String) -> String {
    let newer = match &change {
        Change::Applied(object) | Change::Deleted(object) => object.meta().resource_version.clone(),
        Change::Bookmark(version) => version.clone(),
    };
    match change {
        Change::Applied(object) => store.apply(object),
        Change::Deleted(object) => store.remove(&object.meta().key()),
        Change::Bookmark(_) => {}
    }
    if newer.is_empty() { version } else { newer }
}

/// The version that is asked from is still good.
fn transient(error: &ApiError) -> bool {
    match error {
        ApiError::Connect(_) | ApiError::Timeout(_) => true,
        ApiError::Status { code, .. } => *code == 429 || *code >= 500,
        ApiError::Unreadable(_) | ApiError::Credentials(_) => false,
    }
}

fn state(kind: &super::Kind, error: &ApiError) -> State {
    match error.code() {
        Some(404) if kind.optional => State::Absent,
        _ => State::Failed(error.to_string()),
    }
}
