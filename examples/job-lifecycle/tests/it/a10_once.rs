//! A10: an event that comes twice changes nothing the second time.

use std::process::Command;

use serde_json::json;

use super::stage::{Stage, created, event, eventually, some_id};

#[tokio::test]
async fn a10_processed_events_are_recorded_with_their_effect() {
    let stage = Stage::crawling().await;
    let sql = stage.sql("crawler").await;
    let shape = "SELECT column_name::text, data_type::text, coalesce(column_default, '')::text
                 FROM information_schema.columns WHERE table_name = 'processed_events' ORDER BY 1";
    let rows = sql.query(shape, &[]).await.unwrap();
    let columns: Vec<[String; 3]> = rows
        .iter()
        .map(|row| [row.get(0), row.get(1), row.get(2)])
        .collect();
    let expected = [
        ["event_id", "uuid", ""],
        ["processed_at", "timestamp with time zone", "now()"],
    ];
    assert_eq!(columns, expected);
    let index = "SELECT 1 FROM pg_indexes WHERE indexname = 'idx_processed_events_cleanup'";
    assert_eq!(sql.query(index, &[]).await.unwrap().len(), 1);

    let source = some_id();
    let first = created(&source, 0);
    stage.they_publish(&first).await;
    let deeper = event(
        "SOURCE_UPDATED",
        &source,
        1,
        json!({"current": {"max_depth": 5}}),
    );
    stage.they_publish(&deeper).await;
    let job = stage.job(&source, |job| job["max_depth"] == 5).await;
    let path = format!("/api/v1/jobs/{}/pause", job["id"].as_str().unwrap());
    stage.crawler.post(&path, &json!({})).await;
    // The same again, one even at a later time.
    let mut later = first.clone();
    later["timestamp"] = "2026-11-21T00:00:00Z".into();
    for again in [&first, &deeper, &later] {
        stage.they_publish(again).await;
    }
    stage.settled().await;
    eventually(async || (stage.crawler.lines("applied=Before").len() == 3).then_some(())).await;
    let mut paused = job;
    paused["status"] = "paused".into();
    assert_eq!(stage.jobs_of(&source).await, [paused]);

    // Where the effect fails, the record is not there either.
    sql.batch_execute("ALTER TABLE jobs RENAME TO away")
        .await
        .unwrap();
    let other = some_id();
    let failing = created(&other, 0);
    stage.they_publish(&failing).await;
    stage.one_pending().await;
    let id = failing["event_id"].as_str().unwrap();
    let count = format!("SELECT count(*) FROM processed_events WHERE event_id = '{id}'");
    assert_eq!(
        sql.query_one(&count, &[]).await.unwrap().get::<_, i64>(0),
        0
    );
    sql.batch_execute("ALTER TABLE away RENAME TO jobs")
        .await
        .unwrap();
    stage.job(&other, |_| true).await;
    assert_eq!(
        sql.query_one(&count, &[]).await.unwrap().get::<_, i64>(0),
        1
    );
}

#[tokio::test]
async fn a10_migrations_go_up_and_down() {
    let mut stage = Stage::running().await;
    let tables =
        "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'migrations'";
    stage.sources.stop();
    stage.crawler.stop();
    for (name, program, count) in [
        ("source_manager", env!("CARGO_BIN_EXE_source-manager"), 1),
        ("crawler", env!("CARGO_BIN_EXE_crawler"), 4),
    ] {
        let sql = stage.sql(name).await;
        for expected in [count, 0, 0] {
            let row = sql.query_one(tables, &[]).await.unwrap();
            assert_eq!(row.get::<_, i64>(0), expected, "{name}");
            let mut down = Command::new(program);
            let url = super::stage::database(&stage.postgres, name);
            down.env(format!("{}_DATABASE_URL", name.to_uppercase()), url);
            assert!(down.arg("migrate-down").status().unwrap().success());
        }
    }
    stage.sources.start();
    stage.crawler.start();
    assert_eq!(stage.crawler.get("/api/v1/jobs").await, json!([]));
}
