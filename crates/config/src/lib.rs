//! The configuration: text in, a checked [`Config`] out, with every complaint at its key, line and column.
//!
//! [`parse`] reads the whole file, [`parse_endpoints`] a watched endpoint list, [`Router`] and [`AmqpRouter`] apply the routes, [`Key`]
//! finds a key in a request, [`explain`] tells an operator what the file means, [`json_schema`] an editor and [`mod@reference`] a reader what
//! may be in it. Not here: reading files, watching them, looking at the
//! machine (whether a certificate exists, how many descriptors there are).

mod amqp;
mod amqp_check;
mod amqp_router;
mod balancing;
mod check;
mod cluster;
mod cluster_check;
mod endpoints;
mod error;
mod explain;
mod json_schema;
mod key;
mod parse;
pub mod reference;
mod router;
mod rules;
pub mod schema;
mod shutdown;
mod tree;
pub mod units;

pub use amqp::{Amqp, AmqpRoute, ForeignQueues, MessageOrder, Probe, WhenPinned};
pub use amqp_router::AmqpRouter;
pub use cluster::{DnsPool, Kubernetes, KubernetesPool, ServicePort, Tier, TierBalance};
pub use endpoints::{Source, parse_endpoints};
pub use error::{Errors, Problem, Warning};
pub use explain::explain;
pub use json_schema::json_schema;
pub use key::Key;
pub use parse::{Checked, parse};
pub use router::{Router, match_route};
pub use schema::*;
pub use shutdown::Shutdown;
