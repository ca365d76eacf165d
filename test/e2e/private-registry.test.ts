// A function with an image in a private registry: rejected without a login, deployed after a login, and run
// by a worker that pulls the image.

import t from 'tap'
import { makeBusyboxLayer } from '../../infra/demo/image.ts'
import { pushImage } from '../../infra/demo/push-image.ts'
import { parseReference } from '../../services/registry/reference.ts'
import { createRegistryClient } from '../../services/registry/registry.ts'
import { PASSWORD, passwordPart, USER } from '../helpers/registry-auth.ts'
import { startRegistry } from '../helpers/registry.ts'
import { cannotRun, runWherry, shortFolder, startWherry } from '../helpers/wherry.ts'

if (cannotRun !== false) {
  t.plan(0, cannotRun)
  process.exit(0)
}

t.test('a private image can be deployed and run after a login', async (t) => {
  const host = await startRegistry(t, { more: passwordPart(shortFolder(t)) })
  const owner = createRegistryClient({
    credentials: {
      find: async () => ({
        credential: { kind: 'password', username: USER, password: PASSWORD },
        problems: [],
      }),
    },
  })
  t.teardown(() => owner.close())
  const image = `${host}/team/private:v1`
  await pushImage({
    registry: owner,
    reference: parseReference(image),
    layers: [{ bytes: makeBusyboxLayer(), mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip' }],
    config: { config: { Env: ['PATH=/bin'] } },
  })

  const home = shortFolder(t)
  const wherry = await startWherry(t, { env: { HOME: home, DOCKER_CONFIG: home } })
  const deploy = () => wherry.run(['deploy', 'upper', '--image', image, '--', 'tr', 'a-z', 'A-Z'])
  t.match(await deploy(), {
    code: 1,
    stderr: new RegExp(`registry ${host} requires a login: .*; run wherry login ${host}`),
  })
  t.match(
    await runWherry(['login', host, '-u', USER, '--password-stdin', '--data', wherry.data], {
      input: PASSWORD,
    }),
    { code: 0 },
  )
  t.match(await deploy(), { code: 0 }, 'the running gateway uses the login')
  t.match(
    await wherry.run(['invoke', 'upper', '-d', 'private']),
    { code: 0, stdout: 'PRIVATE' },
    'and so does the worker',
  )
  t.notMatch(wherry.progress.join('\n'), PASSWORD)
})
