//! The evenkeel command: wiring, signals, logging.
