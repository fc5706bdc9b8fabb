/** Names of machines by template and counter: the built-in inventory. */

export const DEFAULT_TEMPLATE = '{cloud}-{number}'
const GAP = '{number}'
const PART_MAX = 50

/** What a template may speak of. */
export interface NameParts {
  readonly cloud: string
  readonly environment: string | null
  readonly roles: readonly string[]
}

/** A template with everything filled in but the number: names that differ by nothing else share a counter. */
export function nameStem(template: string, { cloud, environment, roles }: NameParts): string {
  const filled = template
    .replaceAll('{cloud}', cloud)
    .replaceAll('{environment}', environment ?? 'none')
    .replaceAll('{role}', roles[0] ?? 'none')
  const stem = filled.includes(GAP) ? filled : `${filled}-${GAP}`
  return stem.split(GAP).map(label).join(GAP)
}

/** What may stand in a host name; the parts around the number leave it room. */
const label = (text: string): string =>
  text
    .toLowerCase()
    .replaceAll(/[^a-z0-9.-]+/g, '-')
    .slice(0, PART_MAX)

/** The name with a number in its gap. */
export const nameOf = (stem: string, number: number): string =>
  stem.replaceAll(GAP, String(number)).replaceAll(/^[-.]+|[-.]+$/g, '')
