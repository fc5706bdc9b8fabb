/** The names under which an installation and an attempt travel with a machine. */
export const INSTALLATION_TAG = 'holdfast_installation'
export const ATTEMPT_TAG = 'holdfast_attempt'
export const TOKEN_HEADER = 'idempotency-token'
