-- What each user may use: tokens, concurrent requests and budgets beside requests, and the accounts
-- from which every proxy process leases what it lets its users spend.

ALTER TABLE public.users
    ADD COLUMN token_limit          bigint CHECK (token_limit >= 0),
    ADD COLUMN token_window_seconds integer CHECK (token_window_seconds > 0),
    ADD COLUMN max_concurrent       integer CHECK (max_concurrent >= 0),
    ADD COLUMN day_budget           bigint CHECK (day_budget >= 0),
    ADD COLUMN month_budget         bigint CHECK (month_budget >= 0);
COMMENT ON COLUMN public.users.token_limit IS 'tokens per window, 0 for no limit, null for the default';
COMMENT ON COLUMN public.users.max_concurrent IS 'requests at a time, 0 for no limit, null for the default';
COMMENT ON COLUMN public.users.day_budget IS 'tokens per UTC day, 0 for no limit, null for the default';
COMMENT ON COLUMN public.users.month_budget IS 'tokens per UTC month, 0 for no limit, null for the default';

-- One more trigger and not other columns in users_version: each migration adds its own.
CREATE TRIGGER users_limits_version
    BEFORE UPDATE OF token_limit, token_window_seconds, max_concurrent, day_budget, month_budget
    ON public.users FOR EACH ROW EXECUTE FUNCTION public.stamp_key_version();

-- One row for each limit of a user: what was spent, and what processes have leased. An entry is
-- the last moment at which its amount is or was spent (milliseconds since the epoch); it counts
-- until the window after that moment is over. A process that is gone leaves its lease behind,
-- which counts as spent.
CREATE TABLE public.limit_accounts (
    user_id bigint NOT NULL,
    kind    text NOT NULL CHECK (kind IN ('requests', 'tokens', 'concurrent', 'day', 'month')),
    untils  bigint[] NOT NULL DEFAULT '{}',
    amounts bigint[] NOT NULL DEFAULT '{}',
    idles   bigint[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (user_id, kind)
) WITH (fillfactor = 50);
COMMENT ON COLUMN public.limit_accounts.idles IS 'of each amount, what its lessee had no use for when it last reported';

CREATE FUNCTION public.forget_limit_accounts() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM public.limit_accounts WHERE user_id = OLD.id;
    RETURN OLD;
END
$$;
CREATE TRIGGER users_limit_accounts
    AFTER DELETE ON public.users FOR EACH ROW EXECUTE FUNCTION public.forget_limit_accounts();

-- Each report gives back a lease (leased, in the entry bucket, of which unused were idle), says what
-- was spent of it age_ms ago and what is kept (held by requests, idle beside that), and asks for
-- more: needed, or a share of what is free. Whatever it says, an account whose entries are within
-- the quota never gets beyond it by a grant.
--
-- The rows are locked in one order, so that processes never wait for each other in a circle. The
-- clock is read when a row is locked: the order of the moments is the order of the changes.
CREATE FUNCTION public.settle_limits(reports jsonb) RETURNS TABLE (
    item integer, granted bigint, free bigint, bucket bigint, valid_ms bigint, idle bigint,
    outs bigint[], amounts bigint[]
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
    report record;
    account record;
    moment timestamptz;
    at_ms bigint;
    step bigint;
    spent_until bigint;
    lease_until bigint;
    furthest bigint;
    used bigint;
    unused bigint;
    spare bigint;
    gift bigint;
BEGIN
    FOR report IN
        SELECT * FROM jsonb_to_recordset(reports) AS r (
            item integer, user_id bigint, kind text, quota bigint, window_ms bigint, lease_ms bigint,
            bucket bigint, leased bigint, unused bigint, spent bigint, age_ms bigint, held bigint,
            kept bigint, needed bigint, share integer
        ) ORDER BY user_id, kind
    LOOP
        LOOP
            SELECT a.untils, a.amounts, a.idles INTO account FROM public.limit_accounts AS a
            WHERE a.user_id = report.user_id AND a.kind = report.kind FOR UPDATE;
            EXIT WHEN FOUND;
            INSERT INTO public.limit_accounts (user_id, kind)
            SELECT id, report.kind FROM public.users WHERE id = report.user_id
            ON CONFLICT DO NOTHING;
            -- A user who was deleted has no account. Their requests end within a second.
            EXIT WHEN NOT FOUND AND NOT EXISTS (SELECT FROM public.users WHERE id = report.user_id);
        END LOOP;

        moment := clock_timestamp();
        at_ms := floor(extract(epoch FROM moment) * 1000);
        IF report.kind IN ('day', 'month') THEN
            spent_until := extract(epoch FROM date_trunc(report.kind, moment) + ('1 ' || report.kind)::interval) * 1000;
            lease_until := spent_until;
            furthest := spent_until;
        ELSE
            -- Rounded up, so that an account has some hundred entries at most.
            step := greatest(report.window_ms / 64, 10);
            spent_until := ((at_ms - report.age_ms) / step + 1) * step;
            step := greatest(step, 250);
            lease_until := ((at_ms + report.lease_ms) / step + 1) * step;
            -- What lies beyond was written when the clock was wrong.
            furthest := at_ms + 2 * (report.lease_ms + step);
        END IF;

        SELECT coalesce(array_agg(until ORDER BY until), '{}'),
               coalesce(array_agg(amount ORDER BY until), '{}'),
               coalesce(array_agg(idle ORDER BY until), '{}'),
               coalesce(sum(amount), 0), coalesce(sum(idle), 0)
        INTO account.untils, account.amounts, account.idles, used, unused
        FROM (
            SELECT until, sum(amount)::bigint AS amount, greatest(sum(idle), 0)::bigint AS idle
            FROM (
                SELECT least(e.until, furthest), e.amount, e.idle
                FROM unnest(account.untils, account.amounts, account.idles) AS e (until, amount, idle)
                UNION ALL VALUES (report.bucket, -report.leased, -report.unused),
                                 (spent_until, report.spent, 0),
                                 (lease_until, report.held + report.kept, report.kept)
            ) AS entry (until, amount, idle)
            GROUP BY until
        ) AS entry
        WHERE amount > 0 AND until + report.window_ms > at_ms;

        spare := greatest(report.quota - used, 0);
        gift := least(spare, greatest(report.needed, CASE WHEN report.share > 0 THEN spare / report.share ELSE 0 END));
        IF gift > 0 THEN
            -- There may be an entry of this moment already: the next report adds them up.
            account.untils := account.untils || lease_until;
            account.amounts := account.amounts || gift;
            account.idles := account.idles || greatest(gift - report.needed, 0);
        END IF;
        UPDATE public.limit_accounts AS a
        SET untils = account.untils, amounts = account.amounts, idles = account.idles
        WHERE a.user_id = report.user_id AND a.kind = report.kind;

        item := report.item;
        granted := gift;
        free := report.quota - used - gift;
        bucket := lease_until;
        valid_ms := lease_until - at_ms;
        idle := unused - report.kept;
        outs := '{}';
        amounts := '{}';
        IF gift < report.needed THEN
            SELECT coalesce(array_agg(until + report.window_ms - at_ms ORDER BY until), '{}'),
                   coalesce(array_agg(amount ORDER BY until), '{}')
            INTO outs, amounts
            FROM unnest(account.untils, account.amounts) AS e (until, amount);
            IF idle > 0 THEN
                PERFORM pg_notify('llamakit_limits', report.user_id || ' ' || report.kind);
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
