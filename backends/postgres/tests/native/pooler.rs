//! Behind a pooler that gives every transaction another connection: a small one of our own, in
//! transaction mode, that hands its connections out in turn.

use std::net::SocketAddr;
use std::sync::Arc;

use fanfare_core::advice::Weight;
use fanfare_core::backend::Backend;
use fanfare_postgres::{PostgresBackend, PostgresConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::stage::*;

/// Connections to the server.
const SERVERS: usize = 3;

/// Connections to the server, in turn.
struct Pool {
    target: SocketAddr,
    servers: Vec<Mutex<TcpStream>>,
    next: std::sync::atomic::AtomicUsize,
}

/// A message: its kind and all of it.
type Message = (u8, Vec<u8>);

async fn read(stream: &mut TcpStream) -> Option<Message> {
    let kind = stream.read_u8().await.ok()?;
    let length = stream.read_u32().await.ok()?;
    let mut body = vec![0; usize::try_from(length).unwrap() - 4];
    stream.read_exact(&mut body).await.ok()?;
    let whole = [&[kind][..], &length.to_be_bytes(), &body].concat();
    Some((kind, whole))
}

/// The first message of a client, which has no kind.
fn startup() -> Vec<u8> {
    let body = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    let length = u32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes()[..], body].concat()
}

/// Passes on answers until the server is ready; whether its transaction has ended.
async fn answer(server: &mut TcpStream, mut client: Option<&mut TcpStream>) -> Option<bool> {
    loop {
        let (kind, whole) = read(server).await?;
        if let Some(client) = &mut client {
            client.write_all(&whole).await.ok()?;
        }
        if kind == b'Z' {
            return Some(whole.last() == Some(&b'I'));
        }
    }
}

async fn serve(mut client: TcpStream, pool: Arc<Pool>) -> Option<()> {
    let length = client.read_u32().await.ok()?;
    let mut body = vec![0; usize::try_from(length).unwrap() - 4];
    client.read_exact(&mut body).await.ok()?;
    // Welcome, the key to cancel with, ready.
    let welcome = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x01Z\0\0\0\x05I";
    client.write_all(welcome).await.ok()?;
    loop {
        // The first message of a transaction chooses the connection.
        let first = read(&mut client).await?;
        let turn = pool.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut server = pool.servers[turn % SERVERS].lock().await;
        if transact(&mut client, &mut server, first).await.is_none() {
            // Who went away in the middle leaves a connection that nobody can use.
            *server = connect(pool.target).await;
            return None;
        }
    }
}

/// Passes one transaction on, to its end.
async fn transact(client: &mut TcpStream, server: &mut TcpStream, first: Message) -> Option<()> {
    let mut message = first;
    loop {
        let (kind, whole) = message;
        server.write_all(&whole).await.ok()?;
        let asked = matches!(kind, b'S' | b'Q');
        if asked && answer(server, Some(client)).await? {
            return Some(());
        }
        message = read(client).await?;
    }
}

async fn connect(target: SocketAddr) -> TcpStream {
    let mut server = TcpStream::connect(target).await.unwrap();
    server.write_all(&startup()).await.unwrap();
    assert_eq!(answer(&mut server, None).await, Some(true));
    server
}

pub(super) async fn pooler(target: SocketAddr) -> SocketAddr {
    let mut servers = Vec::new();
    for _ in 0..SERVERS {
        servers.push(Mutex::new(connect(target).await));
    }
    let pool = Arc::new(Pool {
        target,
        servers,
        next: std::sync::atomic::AtomicUsize::new(0),
    });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, pool.clone()));
        }
    });
    address
}

#[tokio::test]
async fn every_transaction_may_have_another_connection() {
    let broker = server().await;
    let address = pooler(broker.address()).await;
    let config = PostgresConfig {
        pooler: true,
        ..config(address)
    };
    let backend = PostgresBackend::open(config.clone()).await.unwrap();
    let other = PostgresBackend::open(config).await.unwrap();
    let member = member(&backend).await;
    let texts: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    for text in &texts {
        assert!(!publish(&backend, &event(text)).await.unwrap().duplicate);
    }
    assert_eq!(take(&member, 50).await, texts);
    // A gap that only the locks explain, and one that holds back.
    sql(&broker, &format!("BEGIN; {}; ROLLBACK", function("gone"))).await;
    let early = sql(&broker, &format!("BEGIN; {}", function("early"))).await;
    publish(&other, &event("late")).await.unwrap();
    nothing(&member).await;
    early.batch_execute("COMMIT").await.unwrap();
    assert_eq!(take(&member, 2).await, ["early", "late"]);
    assert_eq!(pooler_weight(&backend).await, Some(Weight::Good));
    let left = sql(&broker, "SELECT 1").await;
    drop(left);
    backend.close().await.unwrap();
    other.close().await.unwrap();
}

/// What an operator is told about it.
async fn pooler_weight(backend: &PostgresBackend) -> Option<Weight> {
    let all = backend.admin().advice().await.unwrap();
    let found = all.iter().find(|advice| advice.check == "pooler");
    found.map(|advice| advice.weight)
}

#[tokio::test]
async fn nobody_is_told_of_a_pooler_where_there_is_none() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    assert_eq!(pooler_weight(&backend).await, None);
    backend.close().await.unwrap();
}
