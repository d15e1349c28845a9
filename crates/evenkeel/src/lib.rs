//! The command line as a function, so that the load tester runs the very gateway that users run.
//!
//! Wiring only: arguments, logging, signals, the channels between discovery, gateway and admin; and the commands that
//! speak with a running gateway over its admin port.

mod client;
mod command;
mod control;
mod in_cluster;
mod install;
mod logging;
mod operate;
mod render;
mod secrecy;
mod serve;
mod tables;
mod wait;
mod watch_config;

pub use command::run;
