//! The tests that need the cluster; docs/amqp-tests.md says which promise of the plan each of them holds.

mod moving;
