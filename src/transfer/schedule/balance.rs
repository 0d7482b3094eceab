//! What time tells: who is silent or too slow, and whose bytes another would bring sooner.

use std::time::{Duration, Instant};

use bao_tree::ByteRanges;
use iroh::EndpointId;

use super::{Action, Request, RequestId, Schedule, length_of, provider::Provider};
use crate::{limits, peer::score::Fault};

/// More than these wait for the next look.
const TAKEOVERS_A_TICK: usize = 4;

/// A request whose bytes somebody else would bring sooner.
struct Takeover {
    request: RequestId,
    by: EndpointId,
    /// Where the taker begins, and the request ended so far.
    from: u64,
    end: u64,
    /// The bytes are so few that both may bring them.
    duplicate: bool,
}

impl Schedule {
    pub(super) fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.notice_sleep(now);
        for (id, provider) in &mut self.providers {
            let busy = self
                .requests
                .values()
                .any(|r| r.provider == *id && r.is_active());
            provider.meter.sample(busy, now);
        }
        self.leave_silent(actions);
        self.leave_slow(now, actions);
        self.leave_lagging(now);
        if self.fellows() != self.fellows {
            self.reshare(actions);
        }
        self.hedge_small(now, actions);
        for _ in 0..TAKEOVERS_A_TICK {
            let Some(takeover) = self.find_takeover(now) else {
                return;
            };
            if !takeover.duplicate {
                self.remember_silence(takeover.request);
                self.cut(takeover.request, takeover.from, actions);
            }
            if takeover.end <= takeover.from {
                return;
            }
            let range = takeover.from..takeover.end;
            self.ask(takeover.by, range, takeover.duplicate, now, actions);
        }
    }

    /// A machine that slept has heard nobody meanwhile, which is nobody's fault.
    fn notice_sleep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.ticked_at) > limits::ASLEEP {
            self.woken_at = now;
            self.arrived_at = now;
        }
        self.ticked_at = now;
        let awake = now.saturating_duration_since(self.woken_at);
        for request in self.requests.values_mut() {
            request.silent = request.silent.min(awake);
        }
    }

    /// What is taken from a provider does not make its silence unheard.
    fn remember_silence(&mut self, request: RequestId) {
        if let Some(request) = self.requests.get(&request)
            && let Some(provider) = self.providers.get_mut(&request.provider)
        {
            provider.silence += request.silent;
        }
    }

    /// Whether another provider could be asked for what is left of a request.
    fn others_hold(&self, request: &Request) -> bool {
        let rest = ByteRanges::from(request.delivered..request.end);
        self.providers.iter().any(|(id, provider)| {
            *id != request.provider && !provider.slow && provider.holds_all(&rest)
        })
    }

    /// Leaves providers that send nothing: soon where others have the bytes.
    fn leave_silent(&mut self, actions: &mut Vec<Action>) {
        let ids: Vec<EndpointId> = self.providers.keys().copied().collect();
        for id in ids {
            let Some(provider) = self.providers.get(&id) else {
                continue;
            };
            let impatient = limits::STALL_ELSEWHERE.max(provider.latency * 4);
            let mut stalled = Vec::new();
            let mut moving = false;
            let asked = self
                .requests
                .iter()
                .filter(|(_, r)| r.provider == id && r.is_active());
            for (request, r) in asked {
                let patience = if self.others_hold(r) {
                    impatient.min(limits::STALL)
                } else {
                    limits::STALL
                };
                let silent = r.silent + provider.silence;
                if silent >= patience {
                    stalled.push(*request);
                } else if silent < patience / 2 {
                    moving = true;
                }
            }
            if stalled.is_empty() {
                continue;
            }
            if moving {
                for request in stalled {
                    self.cut(request, 0, actions);
                }
            } else {
                self.drop_provider(id, Fault::Silent, actions);
            }
        }
    }

    /// Leaves providers below the least useful rate, while a faster one is there.
    fn leave_slow(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let fastest = self
            .providers
            .values()
            .filter(|provider| !provider.slow)
            .filter_map(|provider| provider.meter.rate())
            .fold(0.0, f64::max);
        if fastest < 2.0 * limits::SLOW_RATE {
            return;
        }
        let slow: Vec<EndpointId> = self
            .providers
            .iter()
            .filter(|(_, provider)| {
                let rate = provider.meter.rate();
                let tried = now.saturating_duration_since(provider.joined_at);
                !provider.slow
                    && tried >= limits::SLOW_TIME
                    && rate.is_some_and(|rate| rate < limits::SLOW_RATE)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in slow {
            let requests = self.requests_of(id);
            if !requests.iter().all(|request| {
                let request = self.requests.get(request);
                request.is_none_or(|request| self.others_hold(request))
            }) {
                continue;
            }
            if let Some(provider) = self.providers.get_mut(&id) {
                provider.slow = true;
            }
            for request in requests {
                self.cut(request, 0, actions);
            }
        }
    }

    /// A small NAR is one request; where it takes longer than usual, another provider is asked
    /// as well.
    fn hedge_small(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.size > limits::CHECKED_FIRST || !self.may_hedge || !self.open.is_empty() {
            return;
        }
        let mut active = self.requests.values().filter(|r| r.is_active());
        let (Some(request), None) = (active.next(), active.next()) else {
            return;
        };
        let Some(asked) = self.providers.get(&request.provider) else {
            return;
        };
        let waited = now.saturating_duration_since(request.asked_at);
        let usual = asked.expected(request.remaining(), 0) * 2;
        if waited < usual.max(limits::HEDGE_LEAST) {
            return;
        }
        let rest = ByteRanges::from(request.delivered..request.end);
        let range = request.delivered..request.end;
        let other = self.providers.iter().find(|(id, provider)| {
            **id != request.provider
                && self.may_be_asked(provider, now)
                && provider.holds_all(&rest)
        });
        if let Some((id, _)) = other {
            let id = *id;
            self.ask(id, range, true, now, actions);
        }
    }

    /// Finds the request that gains most by being taken over, if any is worth it.
    fn find_takeover(&self, now: Instant) -> Option<Takeover> {
        if self.providers.len() < 2 {
            return None;
        }
        let idle = self.open_to_idle(now);
        let mut best: Option<(Duration, Takeover)> = None;
        for (id, request) in self.requests.iter().filter(|(_, r)| r.remaining() > 0) {
            let is_head = (request.delivered..request.end).contains(&self.head.0);
            let rest = ByteRanges::from(request.delivered..request.end);
            if self.is_doubled(*id, request) {
                continue;
            }
            let expected = self.expected_of(request, now);
            for (by, taker) in &self.providers {
                let usable = *by != request.provider
                    && self.may_be_asked(taker, now)
                    && taker.holds_all(&rest);
                // For the reader's next bytes even a busy provider makes room.
                if !usable || !(is_head || idle.contains(by)) {
                    continue;
                }
                let (streams, _) = self.under_way(*by);
                if streams > taker.capacity(self.providers.len()).streams {
                    continue;
                }
                let queued = 0;
                let all = taker.expected(request.remaining(), queued);
                let gain = expected.saturating_sub(all);
                // While others fetch it too, the source has better to do than what they bring
                // in good time.
                let spared = self.share.is_some() && taker.is_whole() && !self.is_starved(now);
                let worth = if spared {
                    limits::FELLOW_PATIENCE * 2
                } else {
                    limits::TAKEOVER_GAIN
                };
                if expected < all * 2 || gain < worth {
                    continue;
                }
                let takeover = self.takeover(*id, request, *by, taker, now);
                if takeover.duplicate && !self.may_hedge {
                    continue;
                }
                if best.as_ref().is_some_and(|(most, _)| *most >= gain) {
                    continue;
                }
                best = Some((gain, takeover));
            }
        }
        best.map(|(_, takeover)| takeover)
    }

    /// Providers that have room and nothing to be asked for.
    fn open_to_idle(&self, now: Instant) -> Vec<EndpointId> {
        let has_room = |id: &EndpointId, provider: &Provider| {
            let capacity = provider.capacity(self.providers.len());
            let (streams, queued) = self.under_way(*id);
            streams < capacity.streams && queued < capacity.bytes
        };
        self.providers
            .iter()
            .filter(|(id, provider)| {
                self.may_be_asked(provider, now)
                    && has_room(id, provider)
                    && self.next_range(**id, now).is_none()
            })
            .map(|(id, _)| *id)
            .collect()
    }

    /// Whether somebody else was asked for the end of this request too.
    fn is_doubled(&self, id: RequestId, request: &Request) -> bool {
        self.requests.iter().any(|(other, r)| {
            *other != id && r.remaining() > 0 && r.end == request.end && r.end > r.delivered
        })
    }

    /// How long a request will still take, by the rate of its provider, shared with its others.
    fn expected_of(&self, request: &Request, now: Instant) -> Duration {
        let Some(provider) = self.providers.get(&request.provider) else {
            return limits::STALL;
        };
        let (streams, _) = self.under_way(request.provider);
        let waited = now.saturating_duration_since(request.asked_at);
        let rate = match provider.meter.rate() {
            Some(rate) => rate / streams.max(1) as f64,
            // Nothing measured: as fast as it was so far, once it had its time.
            None if waited > limits::TAKEOVER_GAIN * 2 => {
                (request.delivered - request.start) as f64 / waited.as_secs_f64()
            }
            None => limits::UNKNOWN_RATE,
        };
        let seconds = request.remaining() as f64 / rate.max(1.0);
        Duration::from_secs_f64(seconds.min(1e6)).max(request.silent)
    }

    /// Splits what is left so that both end at the same time.
    fn takeover(
        &self,
        id: RequestId,
        request: &Request,
        by: EndpointId,
        taker: &Provider,
        now: Instant,
    ) -> Takeover {
        let remaining = request.remaining();
        if remaining <= limits::SHORTEST_RANGE / 2 {
            return Takeover {
                request: id,
                by,
                from: request.delivered / limits::CHUNK_GROUP * limits::CHUNK_GROUP,
                end: request.end,
                duplicate: true,
            };
        }
        let slow = remaining as f64 / self.expected_of(request, now).as_secs_f64().max(0.001);
        let kept = remaining as f64 * slow / (slow + taker.expected_rate());
        let kept = (kept as u64).next_multiple_of(limits::CHUNK_GROUP);
        let from = request.delivered.next_multiple_of(limits::CHUNK_GROUP) + kept;
        Takeover {
            request: id,
            by,
            from: from
                .min(request.end.saturating_sub(1) / limits::CHUNK_GROUP * limits::CHUNK_GROUP)
                .max(request.delivered),
            end: request.end,
            duplicate: false,
        }
    }
}

impl Provider {
    /// Whether it has all of these bytes.
    fn holds_all(&self, bytes: &ByteRanges) -> bool {
        self.holds
            .as_ref()
            .is_none_or(|holds| bytes.is_subset(holds) && length_of(bytes, u64::MAX) > 0)
    }
}
