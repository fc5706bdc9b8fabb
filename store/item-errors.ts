/** How often an item met each class of errors: what retry budgets are counted against. */
import { type RawBuilder, sql } from 'kysely'

/** `items.errors` with one more of this error's class; the same error told again, or none, counts nothing. */
export const countedError = (error: RawBuilder<unknown>): RawBuilder<string> => sql`
  case when ${error} is null or ${error} ->> 'at' = items.last_error ->> 'at' then items.errors
    else jsonb_set(items.errors, array[${error} ->> 'class'],
      to_jsonb(coalesce((items.errors ->> (${error} ->> 'class'))::int, 0) + 1)) end`
