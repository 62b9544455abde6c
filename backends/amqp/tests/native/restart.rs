//! A server that is killed and started again under who publishes, and goes on publishing meanwhile.

use crate::*;

/// How often it is killed; `FANFARE_RESTARTS` says otherwise.
const TIMES: usize = 2;
/// From when it listens again until a publish is answered.
const AWAY: Duration = Duration::from_secs(15);

/// The server writes down which queues it has some 3 s after it made them. One that is younger when it
/// is killed is lost with all that is in it, and stays without a leader.
pub(crate) async fn until_registered(broker: &Broker, queue: &str) {
    let node = std::fs::read_dir(broker.dir().join("data")).unwrap();
    let dirs = node.flatten().map(|entry| entry.path().join("quorum"));
    let quorum = dirs.into_iter().find(|dir| dir.is_dir()).unwrap();
    let names = std::fs::read_dir(quorum).unwrap().flatten();
    let names = names.map(|entry| entry.path().join("names.dets"));
    let names = names.into_iter().find(|file| file.is_file()).unwrap();
    let is_there = || {
        let bytes = std::fs::read(&names).unwrap();
        let mut parts = bytes.windows(queue.len());
        parts.any(|part| part == queue.as_bytes())
    };
    let until = Clock::system().now() + PATIENCE;
    while !is_there() {
        assert!(Clock::system().now() < until, "it is not written down");
        Clock::system().sleep(Duration::from_millis(100)).await;
    }
}

/// Publishes one event after the other, until one is answered or none is.
async fn until(backend: &AmqpBackend, answered: bool) {
    let is_answered = async || {
        let answers = backend.publish(&events(1)).await;
        answers.is_ok_and(|answers| answers.iter().all(Result::is_ok))
    };
    while is_answered().await != answered {
        Clock::system().sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_come_back_however_eagerly_one_publishes_through_a_restart() {
    let times = std::env::var("FANFARE_RESTARTS").ok();
    let times = times.map_or(TIMES, |times| times.parse().unwrap());
    let broker = Broker::start(rabbitmq(), Durability::Always).await.unwrap();
    let config = AmqpConfig {
        publish_timeout: Duration::from_secs(2),
        ..config(&broker, "eager")
    };
    let backend = AmqpBackend::open(config).await.unwrap();
    backend.admin().put(&spec(3)).await.unwrap();
    let consumer = join(&backend).await;
    let clock = Clock::system();
    until_registered(&broker, "eager.s.all").await;
    for n in 0..times {
        broker.kill().unwrap();
        let publishing = async {
            // What the server of before answered may still arrive.
            until(&backend, false).await;
            until(&backend, true).await;
            clock.now()
        };
        let restarting = async {
            broker.restart().await.unwrap();
            clock.now()
        };
        let (answered, listens) = tokio::join!(publishing, restarting);
        let took = answered.since(listens);
        assert!(took < AWAY, "restart {n}: answered after {took:?}");
        take(&consumer, 1).await;
    }
    backend.close().await.unwrap();
}
