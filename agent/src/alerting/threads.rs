//! Who was told what: a channel's messages that later ones may change or answer, and the incidents that stand in them.
//!
//! All messages of one thread show the same, so that none of them says that something goes on which is over: the first one, and those
//! that called somebody when it got worse.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::gate::Bundle;
use crate::model::{Alert, Message, News, Place, Severity, Status, Timestamp};
use crate::notifiers::Updates;

/// Incidents that a channel remembers to have told; of more the oldest are forgotten.
const MAX_TOLD: usize = 1000;
/// Messages of a thread that are kept up to date.
const MAX_REFERENCES: usize = 4;

/// What a channel was last told about an incident.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The thread in which it stands.
    pub thread: u64,
    /// Number of the alert in the outbox.
    pub seq: u64,
    /// The alert.
    pub alert: Arc<Alert>,
}

/// All that a channel was told and that is not over.
#[derive(Debug, Default)]
pub(super) struct Threads {
    told: BTreeMap<String, Told>,
    /// By thread what the service calls its messages, first one first.
    references: BTreeMap<u64, Vec<String>>,
    next: u64,
}

/// Messages for one part of a bundle, and what its acceptance means.
pub(super) struct Plan {
    /// The message that counts: with its acceptance everybody has been told.
    pub(super) message: Message,
    /// Further messages of the thread that are to show the same; it is no loss where that fails.
    pub(super) others: Vec<Message>,
    /// Alerts that it settles.
    pub(super) bundle: Bundle,
    thread: Option<u64>,
}

/// What is to be kept of an accepted message.
pub(super) struct Acceptance {
    /// Incidents with what they were told last.
    pub(super) told: Vec<Told>,
    /// Incidents that are over.
    pub(super) over: Vec<String>,
    /// The thread and what the service calls its messages.
    pub(super) references: Option<(u64, Vec<String>)>,
}

impl Threads {
    /// What an earlier run of the agent has told.
    pub(super) fn restore(&mut self, told: Vec<Told>, references: BTreeMap<u64, Vec<String>>) {
        self.next = references.keys().chain(told.iter().map(|told| &told.thread)).max().map_or(0, |last| last + 1);
        self.told = told.into_iter().map(|told| (told.alert.id.clone(), told)).collect();
        self.references = references;
    }

    /// Whether the channel has been told of this incident.
    pub(super) fn knows(&self, incident: &str) -> bool {
        self.told.contains_key(incident)
    }

    /// Whether an alert changes a message that is there, and calls nobody.
    pub(super) fn is_change(&self, alert: &Alert, updates: Updates) -> bool {
        let told = self.told.get(&alert.id);
        updates == Updates::InPlace
            && told.is_some_and(|told| self.references.contains_key(&told.thread) && !is_worse(alert, &told.alert))
    }

    /// An incident is over; whether the channel has been told of it.
    pub(super) fn forget(&mut self, incident: &str) -> bool {
        let was_told = self.told.remove(incident).is_some();
        let told = &self.told;
        self.references.retain(|thread, _| told.values().any(|told| told.thread == *thread));
        was_told
    }

    /// What is told and not over, as news of itself.
    pub(super) fn standing(&self) -> Vec<News> {
        let news = |told: &Told| News { alert: Arc::clone(&told.alert), previous: Some(Arc::clone(&told.alert)), superseded: 0 };
        self.told.values().map(news).collect()
    }

    /// The first message for a bundle, and what is left of the bundle for a further one: new incidents first, then one thread after the
    /// other.
    pub(super) fn plan(&self, bundle: Bundle, updates: Updates, at: Timestamp, late: bool) -> (Plan, Option<Bundle>) {
        let thread_of = |incident: &str| match updates {
            Updates::Separate => None,
            Updates::InPlace | Updates::Answer => {
                self.told.get(incident).map(|told| told.thread).filter(|thread| self.references.contains_key(thread))
            }
        };
        let threads: Vec<_> = bundle.items.iter().map(|item| thread_of(&item.alert.id)).collect();
        let first = if threads.contains(&None) { None } else { threads.first().copied().flatten() };
        let (mut now, mut rest) = (bundle, Bundle::default());
        let mut index = 0;
        now.items.retain(|item| {
            let belongs = threads.get(index).is_some_and(|thread| *thread == first);
            index += 1;
            if !belongs {
                rest.items.push(item.clone());
            }
            belongs
        });
        if !rest.items.is_empty() {
            // Numbers of alerts that were replaced or are only counted go with what goes first.
            rest.seqs = rest.items.iter().map(|item| item.seq).collect();
            now.seqs.retain(|seq| !rest.seqs.contains(seq));
            rest.held = now.held.min(rest.count());
            now.held = now.held.min(now.count());
        }
        let plan = self.plan_one(now, first, updates, at, late);
        (plan, (!rest.items.is_empty()).then_some(rest))
    }

    fn plan_one(&self, bundle: Bundle, thread: Option<u64>, updates: Updates, at: Timestamp, late: bool) -> Plan {
        let news: Vec<News> = bundle
            .items
            .iter()
            .map(|item| {
                let previous = self.told.get(&item.alert.id).map(|told| Arc::clone(&told.alert));
                let mut alert = Arc::clone(&item.alert);
                // Who hears of it for the first time is not told of an update.
                if previous.is_none() && alert.status == Status::Updated {
                    Arc::make_mut(&mut alert).status = Status::Firing;
                }
                News { alert, previous, superseded: item.superseded }
            })
            .collect();
        let own = |incident: &str| news.iter().any(|news| news.alert.id == incident);
        let standing: Vec<_> = self
            .told
            .values()
            .filter(|told| updates == Updates::InPlace && Some(told.thread) == thread && !own(&told.alert.id))
            .map(|told| Arc::clone(&told.alert))
            .collect();
        let references = thread.and_then(|thread| self.references.get(&thread)).map_or(&[][..], Vec::as_slice);
        let worse = news.iter().any(|news| news.previous.as_ref().is_some_and(|previous| is_worse(&news.alert, previous)));
        let (place, others) = match (updates, references) {
            (Updates::Separate, _) | (_, []) => (Place::New, &[][..]),
            (Updates::Answer, [first, ..]) => (Place::Answer(first.clone()), &[][..]),
            (Updates::InPlace, [first, ..]) if worse => (Place::Answer(first.clone()), references),
            (Updates::InPlace, [first, others @ ..]) => (Place::Replace(first.clone()), others),
        };
        let delivery = bundle.key.clone().unwrap_or_else(|| key(&bundle));
        let message = Message {
            delivery,
            tallies: bundle.tallies(),
            place,
            standing,
            held: bundle.held,
            late: bundle.oldest().filter(|_| late).map(|oldest| at.since(oldest)),
            news,
        };
        let others = others.iter().zip(1_u32..).map(|(reference, number)| Message {
            delivery: format!("{}~{number}", message.delivery),
            place: Place::Replace(reference.clone()),
            ..message.clone()
        });
        let others = others.collect();
        Plan { message, others, bundle, thread }
    }

    /// The message of a plan was accepted under this name, if it has one.
    pub(super) fn accept(&mut self, plan: &Plan, reference: Option<String>) -> Acceptance {
        let thread = plan.thread.unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        let mut acceptance = Acceptance { told: Vec::new(), over: Vec::new(), references: None };
        if let Some(reference) = reference {
            let names = self.references.entry(thread).or_default();
            match &plan.message.place {
                // What the service made anew, because somebody had removed it, takes its place.
                Place::Replace(old) => {
                    if let Some(name) = names.iter_mut().find(|name| *name == old) {
                        *name = reference;
                    }
                }
                Place::New | Place::Answer(_) if names.len() < MAX_REFERENCES => names.push(reference),
                Place::New | Place::Answer(_) => {}
            }
            acceptance.references = Some((thread, names.clone()));
        }
        for (news, item) in plan.message.news.iter().zip(&plan.bundle.items) {
            let incident = &news.alert.id;
            if news.alert.status == Status::Resolved {
                self.told.remove(incident);
                acceptance.over.push(incident.clone());
            } else {
                let told = Told { thread, seq: item.seq, alert: Arc::clone(&news.alert) };
                self.told.insert(incident.clone(), told.clone());
                acceptance.told.push(told);
            }
        }
        while self.told.len() > MAX_TOLD {
            let oldest = self.told.iter().min_by_key(|(_, told)| told.seq).map(|(incident, _)| incident.clone());
            let Some(incident) = oldest else { break };
            self.told.remove(&incident);
            acceptance.over.push(incident);
        }
        let told = &self.told;
        self.references.retain(|thread, _| told.values().any(|told| told.thread == *thread));
        acceptance
    }
}

/// Whether somebody has to hear of it who was content with what was told before.
fn is_worse(alert: &Alert, previous: &Alert) -> bool {
    alert.status != Status::Resolved && alert.severity > previous.severity && alert.severity > Severity::Info
}

/// The idempotency key of a bundle: that of its first alert, and how many more there are.
fn key(bundle: &Bundle) -> String {
    let first = bundle.items.first().map(|item| item.alert.delivery.as_str()).unwrap_or_default();
    match bundle.seqs.len() {
        0 | 1 => first.to_owned(),
        count => format!("{first}+{}", count - 1),
    }
}
