/** A caller of PCM: plain HTTP, JSON in and out. */

export interface PcmAnswer {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  // biome-ignore lint/suspicious/noExplicitAny: bodies differ, and tests say what they expect
  readonly body: any
}

export type PcmClient = (
  method: string,
  path: string,
  body?: unknown,
  headers?: Readonly<Record<string, string>>,
) => Promise<PcmAnswer>

/** `path` below `/pcm_api`; a text is sent as it is. */
export function openPcmClient(url: string, token: string): PcmClient {
  return async (method, path, body, headers = {}) => {
    const sent = body === undefined || typeof body === 'string' ? body : JSON.stringify(body)
    const response = await fetch(`${url}/pcm_api${path}`, {
      method,
      headers: {
        authorization: `Bearer ${token}`,
        ...(sent === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(sent === undefined ? {} : { body: sent }),
    })
    const text = await response.text()
    const is_json = response.headers.get('content-type')?.startsWith('application/json')
    return { status: response.status, headers: response.headers, text, body: is_json ? JSON.parse(text) : undefined }
  }
}
