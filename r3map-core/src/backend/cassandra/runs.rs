//! Which runs of the servers these are: one that was killed may have lost what it acknowledged last, where it writes
//! its log to disk by the clock.

use std::collections::HashMap;
use std::sync::Arc;

use scylla::cluster::Node;
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::statement::Statement;
use tokio::task::JoinSet;

use super::cluster::Connected;
use super::errors;
use crate::error::Result;

/// By the servers' names, which runs of them these are: a number, or none where the log is on disk before anything is
/// acknowledged.
pub type Runs = HashMap<String, Option<i32>>;

/// The runs of the servers that are connected and say so.
pub async fn of_nodes(connected: &Arc<Connected>) -> Runs {
    let mut asked = JoinSet::new();
    for node in connected.session.get_cluster_state().get_nodes_info().iter().filter(|node| node.is_connected()) {
        let (connected, node) = (connected.clone(), node.clone());
        asked.spawn(async move { (node.host_id.to_string(), of_node(&connected, node).await) });
    }
    let mut runs = Runs::new();
    while let Some(Ok((name, run))) = asked.join_next().await {
        match run {
            Ok(run) => drop(runs.insert(name, run)),
            Err(error) => tracing::debug!("the server {name} does not say which run of it this is: {error}"),
        }
    }
    runs
}

async fn of_node(connected: &Connected, node: Arc<Node>) -> Result<Option<i32>> {
    let logs = ask::<String>(connected, &node, "SELECT value FROM system_views.settings WHERE name = 'commitlog_sync'");
    if let Ok(Some("batch" | "group")) = logs.await.as_ref().map(Option::as_deref) {
        return Ok(None);
    }
    // One of before 4.0 has no such table, and one whose user may not read it is taken for the usual.
    ask(connected, &node, "SELECT gossip_generation FROM system.local WHERE key = 'local'").await
}

/// The one value that a query brings of this node.
async fn ask<T>(connected: &Connected, node: &Arc<Node>, query: &str) -> Result<Option<T>>
where
    T: for<'a> scylla::deserialize::value::DeserializeValue<'a, 'a>,
{
    let mut statement = Statement::new(query);
    let here = SingleTargetLoadBalancingPolicy::new(NodeIdentifier::Node(node.clone()), None);
    statement.set_load_balancing_policy(Some(here));
    statement.set_consistency(scylla::statement::Consistency::One);
    let answer = connected.session.query_unpaged(statement, ()).await.map_err(|error| errors::of_request(&error))?;
    let rows = answer.into_rows_result().map_err(errors::of_answer)?;
    let row = rows.maybe_first_row::<(Option<T>,)>().map_err(errors::of_answer)?;
    Ok(row.and_then(|(value,)| value))
}

/// How many servers are in another run than the one in which they acknowledged what was not on disk.
pub fn started_anew(known: &Runs, found: &Runs) -> usize {
    found.iter().filter(|(name, run)| known.get(*name).is_some_and(|known| known.is_some() && known != *run)).count()
}
