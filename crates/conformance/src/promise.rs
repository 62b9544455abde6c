//! The numbered promises, in the order of `docs/spec/backend-contract.md`. Each is checked by the
//! cases that carry its number; what no case checks is not promised.

/// One promise of the contract.
#[derive(Debug, Clone, Copy)]
pub struct Promise {
    /// Never reused, never renumbered.
    pub number: u8,
    /// In a few words.
    pub title: &'static str,
    /// In full.
    pub text: &'static str,
    /// Why nothing here checks it, where nothing does: then it is planned, not promised.
    pub planned: Option<&'static str>,
}

const fn promise(number: u8, title: &'static str, text: &'static str) -> Promise {
    Promise {
        number,
        title,
        text,
        planned: None,
    }
}

const fn planned(
    number: u8,
    title: &'static str,
    text: &'static str,
    reason: &'static str,
) -> Promise {
    Promise {
        number,
        title,
        text,
        planned: Some(reason),
    }
}

/// Every promise by number.
pub const PROMISES: &[Promise] = &[
    promise(
        1,
        "acknowledged means kept",
        "An event whose publish answered Ok reaches every subscription that exists, and every later \
         one that starts early enough to include it. Where the backend is durable this holds \
         whatever is closed, killed or, where it is power safe, switched off in between; so do \
         settlements, dead letters, subscriptions and state.",
    ),
    promise(
        2,
        "publishing again is safe",
        "An outcome that is not known is reported as unknown, never as Ok. Publishing the same event \
         (same source, same id) again stores nothing and answers `duplicate` with the position of \
         the first, however many callers try at once; the same id of another source is another event.",
    ),
    promise(
        3,
        "callers need not batch",
        "Any number of callers may publish at once and each gets the answer for its own event. A \
         batch is answered per event, in order.",
    ),
    promise(
        4,
        "try_publish never waits",
        "`try_publish` queues the event or refuses it with Full at once. Shutdown publishes what is \
         queued; what failed behind the caller's back is counted and listed in the shutdown report.",
    ),
    promise(
        5,
        "waiting for local handlers",
        "`publish_and_wait` answers after the event is kept: for each subscription of this process \
         how it was settled and at which attempt, or that it is pending at the deadline. `emit` runs \
         this process's handlers in registration order in the caller's task and answers their outcomes.",
    ),
    promise(
        6,
        "bad input is refused early",
        "An event or batch above a limit is refused with TooLarge and none of it is stored; a \
         malformed name, pattern or option is refused with every violation named.",
    ),
    promise(
        7,
        "the right events, as published",
        "Each subscription receives every event that matches one of its patterns, at least once, and \
         no other; members share them, and while nothing fails one member gets them in publish \
         order. What arrives is what was published: id, attributes, \
         extensions and data bytes unchanged. No subscription can take, settle or lose another's.",
    ),
    promise(
        8,
        "one owner at a time",
        "A delivery belongs to one member while its lease is kept alive. When the lease ends another \
         member takes over, and what the former owner settles or extends then is refused and \
         changes nothing. So is a repeated settlement and one that was never leased.",
    ),
    promise(
        9,
        "a crash is isolated",
        "Deliveries whose member died come back one at a time, and only then is an attempt counted: \
         what was merely fetched beside a poison event is never charged. A poison event becomes a \
         dead letter after at most max_attempts + 1 deaths. A release counts no attempt.",
    ),
    promise(
        10,
        "retries come when due",
        "`Retry{after}` comes back with the next attempt number, no sooner than asked and not much \
         later. Other events go on meanwhile, however many wait.",
    ),
    promise(
        11,
        "order per key",
        "On an ordered subscription the events of one key are handled one at a time in publish \
         order, across retries, members and takeovers; other keys go on. When one becomes a dead \
         letter its key goes on or parks behind it, as the subscription says.",
    ),
    promise(
        12,
        "undecodable input is kept",
        "Input that is no event, where others write to the stream too, never blocks and is never \
         dropped: it becomes a dead letter of every subscription, with its raw bytes and the reason \
         `undecodable`.",
    ),
    promise(
        13,
        "everything is bounded",
        "A receive answers at most what was asked for, and a slow or stuck member slows its own \
         subscription only.",
    ),
    promise(
        14,
        "failures end in a decision",
        "A failed or panicked handler is retried after the policy's delay until its attempts are \
         used up, then kept as a dead letter with event, reason, error, attempts, first and last \
         failure and fingerprint, or dropped where the subscription says so. A handler may choose \
         the dead letter or the drop itself.",
    ),
    promise(
        15,
        "dead letters can be mended",
        "Dead letters are listed, counted, edited, redriven and discarded by id, by filter or all. A \
         redrive returns each to its own subscription only, once however often it is pressed, as \
         attempt 1; an edit keeps the original beside it; a discard counts as dropped.",
    ),
    planned(
        16,
        "the inbox",
        "Effects that a handler writes in its own database transaction happen exactly once.",
        "the inbox is not built yet",
    ),
    promise(
        17,
        "the outbox",
        "Where the backend is the database of the caller's own transactions, an event is published if \
         and only if the transaction that it was written in committed; what commits late is not \
         skipped, and events of one key come in the order of their commits where those transactions \
         follow each other. A forwarding carries them on like that.",
    ),
    promise(
        18,
        "a broker may go away",
        "While the broker cannot be reached a publish waits up to its deadline and then fails with \
         Unavailable. One whose connection broke under it, or that got no answer, ends as Unknown, \
         perhaps sooner; publishing the same event again is safe. Subscriptions come back \
         by themselves and lose nothing; what was handled meanwhile is settled then. The health says \
         so, without waiting. A subscription that is deleted under its members is created again where \
         they were; a stream that somebody deletes or empties goes on, and its loss is told once.",
    ),
    promise(
        19,
        "retention spares what is unsettled",
        "A full stream answers Full instead of forgetting an unsettled event, and takes events again \
         once there is room.",
    ),
    promise(
        20,
        "closing is orderly",
        "Closing releases what is leased, ends what waits and may be repeated; later calls fail with \
         Closed. Shutdown stops taking, finishes or releases what runs within the grace period, \
         drains its queues and returns.",
    ),
    promise(
        21,
        "history",
        "Where history is offered, past events are listed by every filter in either direction, each \
         once however many are appended meanwhile, and found by id; an event's status follows from \
         its deliveries.",
    ),
    promise(
        22,
        "nothing is unaccounted for",
        "For each subscription, at every quiet moment: matching events in the log = acknowledged + \
         dropped + dead + in flight + waiting, compared from two independently kept numbers. A seek \
         starts the balance anew; a dead letter from before it that is redriven counts as one more.",
    ),
    promise(
        23,
        "state is atomic",
        "Operations on one key of the state happen one after the other: no increment is lost, one of \
         many first writers wins, and compare-and-set writes only over the version it names.",
    ),
    promise(
        24,
        "subscriptions are operated explicitly",
        "Creating a subscription again changes nothing or names the conflict; patterns change from \
         now on only; start is kept from creation; deleting is refused while anything is unsettled \
         or dead; pause, resume and seek do what they say, and a dry run does nothing.",
    ),
];
