/** `/docs`: the OpenAPI document for people, by Swagger UI, wholly from here: the page names no other host. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { Api } from './context.ts'

const folder = createRequire(import.meta.url)
  .resolve('swagger-ui-dist/package.json')
  .replace(/package\.json$/, '')

const START = `SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#reference',
  deepLinking: true,
  defaultModelsExpandDepth: -1,
  validatorUrl: null,
})
`
const STYLE = `body { margin: 0; background: #fff; }
`
const PAGE = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Holdfast API</title>
    <link rel="stylesheet" href="/docs/swagger-ui.css">
    <link rel="stylesheet" href="/docs/page.css">
    <link rel="icon" href="/docs/icon.png">
  </head>
  <body>
    <div id="reference"></div>
    <script src="/docs/swagger-ui-bundle.js"></script>
    <script src="/docs/page.js"></script>
  </body>
</html>
`
/** Swagger UI sets styles of elements and brings its icons as data. */
const POLICY =
  "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const FILES: readonly { readonly path: string; readonly type: string; readonly read: () => string | Buffer }[] = [
  { path: '/docs', type: 'text/html; charset=utf-8', read: () => PAGE },
  { path: '/docs/page.js', type: 'text/javascript; charset=utf-8', read: () => START },
  { path: '/docs/page.css', type: 'text/css; charset=utf-8', read: () => STYLE },
  { path: '/docs/swagger-ui.css', type: 'text/css; charset=utf-8', read: () => library('swagger-ui.css') },
  {
    path: '/docs/swagger-ui-bundle.js',
    type: 'text/javascript; charset=utf-8',
    read: () => library('swagger-ui-bundle.js'),
  },
  { path: '/docs/icon.png', type: 'image/png', read: () => library('favicon-32x32.png') },
]

/** Without the line that points to a map, which is not served. */
const library = (name: string): string | Buffer => {
  const file = readFileSync(folder + name)
  return name.endsWith('.png') ? file : file.toString('utf8').replace(/\n\/[/*]# sourceMappingURL=.*\s*$/, '\n')
}

/** Registers the page and its files; public, as the document itself. Browsers keep them and ask whether they changed. */
export function routeDocs(app: Api): void {
  for (const { path, type, read } of FILES) {
    let file: { body: Uint8Array<ArrayBuffer>; etag: string } | undefined
    app.get(path, (c) => {
      if (!file) {
        const body = new Uint8Array(Buffer.from(read()))
        file = { body, etag: `"${createHash('sha256').update(body).digest('base64url').slice(0, 27)}"` }
      }
      c.header('Cache-Control', 'public, no-cache')
      c.header('ETag', file.etag)
      c.header('Content-Security-Policy', POLICY)
      c.header('Referrer-Policy', 'no-referrer')
      if (c.req.header('if-none-match') === file.etag) return c.body(null, 304)
      return c.body(file.body, 200, { 'Content-Type': type })
    })
  }
}
