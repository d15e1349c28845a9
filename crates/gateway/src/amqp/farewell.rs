//! The last words to a client whose handshake ends, and the end of both streams behind them.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::handshake;

/// A client that is told something may go on sending this many bytes; closing earlier could lose it the words.
const BYTES_MAX: usize = 128 * 1024;

/// Sends `words`, ends our side, and waits for the client to end its own, `wait` at most.
pub async fn say(io: &mut (impl AsyncRead + AsyncWrite + Unpin), words: &[u8], wait: Duration) {
    let farewell = async {
        io.write_all(words).await?;
        io.flush().await?;
        io.shutdown().await?;
        let (mut sink, mut total) = ([0; 1024], 0);
        while total < BYTES_MAX {
            match io.read(&mut sink).await? {
                0 => break,
                n => total += n,
            }
        }
        std::io::Result::Ok(())
    };
    // It is not told more if it does not listen.
    timeout(wait, farewell).await.ok();
}

/// Closes a client with `code`. Only where a close has a place in the handshake: behind `tune`.
pub async fn close(io: &mut (impl AsyncRead + AsyncWrite + Unpin), code: u16, text: &str, wait: Duration) {
    say(io, &handshake::close(code, text), wait).await;
}
