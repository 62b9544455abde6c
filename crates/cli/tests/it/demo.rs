//! `fanfare demo`: what a newcomer sees, and that it ends with everything accounted for.

use crate::process::{Running, fanfare};

#[test]
fn events_fail_die_and_come_back_and_nothing_is_lost() {
    let args = ["demo", "--backend", "memory:", "--listen", "127.0.0.1:0"];
    let mut command = fanfare(&args);
    command.args(["--seconds", "60", "--rate", "20"]);
    let demo = Running::start(command);
    demo.line_with("attempt 1 failed");
    demo.line_with("thanks sent on attempt 2");
    demo.line_with("dead letter: billing gave up order 7 after 3 attempts");
    demo.line_with("redriving");
    demo.line_with("order 7: charged");
    demo.signal("INT");
    let ended = demo.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("conservation holds"), "{ended:?}");
}
