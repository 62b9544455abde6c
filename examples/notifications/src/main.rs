//! `notifications FILE`: the program, configured by a file such as `pubsub.toml`.

use std::path::Path;

use notifications::{App, Config, Result, asked_to_stop};
use tokio::net::TcpListener;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "tells whoever started it where it is")]
async fn main() -> Result {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let file = std::env::args().nth(1);
    let file = file.ok_or("usage: notifications FILE (such as pubsub.toml)")?;
    let config = Config::read(Path::new(&file))?;
    let app = App::start(&config).await?;
    let listener = TcpListener::bind(config.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    app.serve(listener, asked_to_stop()).await
}
