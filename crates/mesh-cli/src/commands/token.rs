//! `mesh token create`: a join token, with all that a workload needs beside it.

use std::time::Duration;

use mesh_model::{Namespace, ServiceAccount};
use serde_json::json;

use crate::connect::Connection;
use crate::exit::{OK, Outcome};
use crate::join;
use crate::output::{Format, print_json};

/// Join tokens for workloads.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a join token for one account.
    Create(Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Namespace of the account.
    #[arg(short, long)]
    namespace: Namespace,
    /// The account that the workload will run as.
    #[arg(short, long)]
    service_account: ServiceAccount,
    /// How long the token can be used, in seconds, 600 to 3600.
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(600..=3600))]
    ttl: u64,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(command: &Command) -> Outcome {
    let Command::Create(args) = command;
    let client = args.connection.client().await?;
    let facts = join::facts(&client).await?;
    let ttl = Duration::from_secs(args.ttl);
    let token = join::token(&client, &args.namespace, &args.service_account, ttl).await?;
    if args.format.json {
        print_json(&json!({ "token": token, "mesh": facts }))?;
        return Ok(OK.into());
    }
    println!("token: {token}");
    println!("trust domain: {}", facts.trust_domain);
    facts
        .root_hashes
        .iter()
        .for_each(|hash| println!("root sha256: {hash}"));
    facts
        .cas
        .iter()
        .for_each(|address| println!("ca: {address}"));
    facts
        .pilots
        .iter()
        .for_each(|address| println!("pilot: {address}"));
    Ok(OK.into())
}
