// The worker's settings.

import { availableParallelism, hostname } from 'node:os'
import {
  integer,
  listenAddress,
  share,
  sharedSettings,
  text,
  type Config,
  type Table,
} from '../platform/config.ts'

const SLOTS_PER_CORE = 4
const SLOTS_MAX = 1024

/** The default worker name: the host name, cleaned and cut, because it becomes part of keys and metrics. */
const nameOfHost =
  hostname()
    .replaceAll(/[^\w.-]/g, '_')
    .slice(0, 63) || 'worker'

export const workerSettings = {
  ...sharedSettings,
  listen: {
    env: 'WHERRY_WORKER_LISTEN',
    flag: 'listen',
    ...listenAddress,
    default: { host: '127.0.0.1', port: 8081 },
    about: 'where /healthz and /metrics are served',
  },
  workerName: {
    env: 'WHERRY_WORKER_NAME',
    flag: 'name',
    ...text(/^[A-Za-z0-9][\w.-]{0,62}$/, '1 to 63 letters, digits and _ - .'),
    default: nameOfHost,
    about: 'name of this worker, unique on this Redis',
  },
  slots: {
    env: 'WHERRY_WORKER_SLOTS',
    flag: 'slots',
    ...integer({ min: 1, max: SLOTS_MAX }),
    default: Math.min(SLOTS_MAX, SLOTS_PER_CORE * availableParallelism()),
    about: 'maximum number of containers at the same time',
  },
  imagesHigh: {
    env: 'WHERRY_IMAGES_HIGH',
    flag: 'images-high',
    ...share,
    default: { percent: 85 },
    about: 'size of the image store, or usage of its disk, above which unused images are removed',
  },
  imagesLow: {
    env: 'WHERRY_IMAGES_LOW',
    flag: 'images-low',
    ...share,
    default: { percent: 80 },
    about: 'size or usage at which the removal stops; in the unit of the high mark, and below it',
  },
} satisfies Table

export type WorkerConfig = Config<typeof workerSettings>
