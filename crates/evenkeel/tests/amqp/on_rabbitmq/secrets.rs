//! T21: a secret that the client has renewed is the one that the next node is given.

use std::time::Duration;

use lapin::options::{QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

use crate::bench::Bench;
use crate::gateway::Moves;

const USER: &str = "renewing";

fn moved(bench: &Bench, done: impl Fn(&Moves) -> bool) {
    bench.gateway.move_until(Duration::from_millis(100), Duration::from_secs(60), done);
}

// T21: the broker's own users have passwords, which it does not ask for again; whether the new one is used shows at the
// login to the next node, after the old one was taken away.
#[test]
fn a_renewed_secret_is_what_the_next_node_is_given() {
    let bench = Bench::start("secrets", "");
    let vhost = &bench.vhost;
    let password = |word: &str| {
        let said = bench.eval(&format!(
            "rabbit_auth_backend_internal:change_password(<<\"{USER}\">>, <<\"{word}\">>, <<\"tests\">>)."
        ));
        assert_eq!(said, "ok");
    };
    bench.eval(&format!(
        "(catch rabbit_auth_backend_internal:add_user(<<\"{USER}\">>, <<\"first\">>, <<\"tests\">>)), \
         rabbit_auth_backend_internal:set_permissions(<<\"{USER}\">>, <<\"{vhost}\">>, <<\".*\">>, <<\".*\">>, <<\".*\">>, \
         <<\"tests\">>)."
    ));
    password("first");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let uri = format!("amqp://{USER}:first@{}/{vhost}", bench.gateway.address);
        let connection =
            Connection::connect(&uri, ConnectionProperties::default()).await.expect("it logs in");
        let channel = connection.create_channel().await.expect("a channel");
        let declare =
            || channel.queue_declare("q".into(), QueueDeclareOptions::durable(), FieldTable::default());
        declare().await.expect("a queue");
        moved(&bench, |moves| moves.switched >= 1);
        declare().await.expect("the channel goes on");
        // The password that the gateway knows is wrong now: a move is given up, and nobody notices.
        password("second");
        moved(&bench, |moves| moves.aborted >= 2);
        let before = bench.gateway.moves().switched;
        declare().await.expect("the channel goes on");
        connection.update_secret("second".into(), "renewed".into()).await.expect("the broker takes it");
        moved(&bench, |moves| moves.switched > before);
        channel.queue_purge("q".into(), QueuePurgeOptions::default()).await.expect("the channel goes on");
        connection.close(200, "done".into()).await.expect("a polite end");
    });
    for secret in ["first", "second"] {
        assert!(!bench.gateway.log().contains(secret), "a secret is in the log");
    }
    println!("T21 lapin: {}", bench.gateway.moves());
}
