/** What tests of Cloud State send, and where. */
export const ORDERS = '/api/cloud_state/launch_orders'
export const INSTANCES = '/api/cloud_state/instances'

/** One instance to launch. */
export const one = (more: Record<string, unknown> = {}) => ({
  name: 'web',
  image_id: 'debian',
  hwp_id: 'small',
  ...more,
})
