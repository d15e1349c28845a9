//! The command line as a function, so that the load tester runs the very gateway that users run.
//!
//! Wiring only: arguments, logging, signals, and the channels between discovery, gateway and admin.

mod command;
mod control;
mod logging;
mod serve;
mod watch_config;

pub use command::run;
