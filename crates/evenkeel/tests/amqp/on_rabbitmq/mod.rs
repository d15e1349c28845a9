//! The tests that need the cluster; docs/amqp-tests.md says which promise of the plan each of them holds.

mod acks;
mod calls;
mod contents;
mod faults;
mod herd;
mod moving;
mod outages;
mod pins;
mod secrets;
mod teeth;
mod trace;
