DROP TABLE ff.state, ff.incident, ff.horizon, ff.bucket, ff.ids_0, ff.ids_1, ff.ids_2, ff.partition, ff.log, ff.type, ff.source;
DROP SEQUENCE ff.state_version;
