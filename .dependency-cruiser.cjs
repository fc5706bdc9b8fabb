// Who may import whom. The folders are layers: an import that is not named here is a mistake in the design, not in
// this file.
const ours =
  'domain providers store workflows activities api worker embedded tools examples test bench chaos simulation'.split(
    ' ',
  )

/** What each folder may import besides itself and packages. Tests and benches may import anything. */
const allowed = {
  domain: [],
  embedded: [],
  tools: [],
  examples: [],
  providers: ['domain'],
  store: ['domain'],
  workflows: ['domain'],
  activities: ['domain', 'providers', 'store'],
  api: ['domain', 'store'],
  worker: ['domain', 'providers', 'store', 'workflows', 'activities', 'api', 'embedded', 'tools', 'examples'],
  chaos: ['embedded'],
  simulation: ['domain'],
}

const folders = (names) => `^(${names.join('|')})/`

module.exports = {
  forbidden: [
    ...Object.entries(allowed).map(([folder, others]) => ({
      name: `${folder}-imports-${others.length > 0 ? 'only-its-layers' : 'nothing-of-ours'}`,
      severity: 'error',
      from: { path: folders([folder]) },
      to: {
        path: folders(ours),
        // Workflows know the types of activities; the code of an activity in their bundle would be fatal.
        pathNot: folders([folder, ...others, ...(folder === 'workflows' ? ['activities'] : [])]),
      },
    })),
    {
      name: 'workflows-import-only-types-of-activities',
      severity: 'error',
      from: { path: '^workflows/' },
      to: { path: '^activities/', dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'the-chaos-checker-judges-from-outside',
      severity: 'error',
      from: { path: '^chaos/checker' },
      to: { path: folders(ours), pathNot: '^chaos/checker' },
    },
    {
      name: 'what-is-imported-exists',
      severity: 'error',
      from: { path: folders(ours) },
      to: { couldNotResolve: true },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    // TypeScript 7 has no compiler API. swc stands in; it does not know `using` declarations.
    parser: 'swc',
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default', 'types'] },
  },
}
