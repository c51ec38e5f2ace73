// The back end's registry, through the official service SDK, unmodified.
// Usage: node registry.js CONNECTION-STRING (and NODE_EXTRA_CA_CERTS)
'use strict';
const assert = require('assert');
const { Registry } = require('azure-iothub');

const registry = Registry.fromConnectionString(process.argv[2]);

async function refused(promise, name) {
  try {
    await promise;
  } catch (err) {
    assert.strictEqual(err.name, name, `${err.name}: ${err.message}`);
    return;
  }
  assert.fail(`expected ${name}`);
}

async function main() {
  // Each kind of authentication.
  const ca = (await registry.create({ deviceId: 'r-ca', authentication: { type: 'certificateAuthority' } })).responseBody;
  assert.strictEqual(ca.authentication.type, 'certificateAuthority');
  assert.strictEqual(ca.status, 'enabled');
  assert.ok(ca.etag && ca.generationId);

  const sas = (await registry.create({ deviceId: 'r-sas' })).responseBody;
  assert.strictEqual(sas.authentication.type, 'sas');
  assert.strictEqual(Buffer.from(sas.authentication.symmetricKey.primaryKey, 'base64').length, 32);

  for (const thumbprint of ['A'.repeat(40), 'b'.repeat(64)]) {
    const id = `r-thumb-${thumbprint.length}`;
    const d = (await registry.create({ deviceId: id, authentication: { x509Thumbprint: { primaryThumbprint: thumbprint } } })).responseBody;
    assert.strictEqual(d.authentication.type, 'selfSigned');
    assert.strictEqual(d.authentication.x509Thumbprint.primaryThumbprint, thumbprint);
  }
  console.log('ok create');

  await refused(registry.create({ deviceId: 'r-ca' }), 'DeviceAlreadyExistsError');
  await refused(registry.get('r-none'), 'DeviceNotFoundError');
  await refused(registry.create({ deviceId: 'r-bad', authentication: { type: 'selfSigned', x509Thumbprint: { primaryThumbprint: 'AA:BB' } } }), 'ArgumentError');
  await refused(registry.delete('r-none'), 'DeviceNotFoundError');
  console.log('ok refusals');

  // Read, replace, list.
  assert.strictEqual((await registry.get('r-ca')).responseBody.deviceId, 'r-ca');
  const disabled = (await registry.update({ deviceId: 'r-ca', status: 'disabled', statusReason: 'stolen', authentication: { type: 'certificateAuthority' } })).responseBody;
  assert.strictEqual(disabled.status, 'disabled');
  assert.strictEqual(disabled.statusReason, 'stolen');
  assert.strictEqual(disabled.generationId, ca.generationId);
  assert.notStrictEqual(disabled.etag, ca.etag);
  const all = (await registry.list()).responseBody.map((d) => d.deviceId);
  assert.deepStrictEqual(all, ['r-ca', 'r-sas', 'r-thumb-40', 'r-thumb-64']);
  console.log('ok get, update, list');

  // An ID that must be encoded on its way.
  const odd = "odd!id'(1),=@;$:%x";
  await registry.create({ deviceId: odd });
  assert.strictEqual((await registry.get(odd)).responseBody.deviceId, odd);
  await registry.delete(odd);
  console.log('ok encoded id');

  // Bulk.
  const added = (await registry.addDevices([{ deviceId: 'b-1' }, { deviceId: 'b-2' }])).responseBody;
  assert.strictEqual(added.isSuccessful, true);
  await refused(registry.addDevices([{ deviceId: 'b-1' }]), 'ArgumentError');
  const updated = (await registry.updateDevices([{ deviceId: 'b-1', status: 'disabled' }], true)).responseBody;
  assert.strictEqual(updated.isSuccessful, true);
  assert.strictEqual((await registry.get('b-1')).responseBody.status, 'disabled');
  const tagged = (await registry.addDevices([{ deviceId: 'b-3', tags: { site: 'Augsburg' }, properties: { desired: { rate: 5 } } }])).responseBody;
  assert.deepStrictEqual([tagged.isSuccessful, tagged.warnings], [true, []]);
  const twin = (await registry.getTwin('b-3')).responseBody;
  assert.deepStrictEqual([twin.tags, twin.properties.desired.rate], [{ site: 'Augsburg' }, 5]);
  await registry.delete('b-3');
  const removed = (await registry.removeDevices([{ deviceId: 'b-1' }, { deviceId: 'b-2' }], true)).responseBody;
  assert.strictEqual(removed.isSuccessful, true);
  console.log('ok bulk');

  // Queries: pages, twins, what is selected, aggregates, mistakes.
  for (const id of all) await registry.updateTwin(id, { tags: { kind: id.startsWith('r-thumb') ? 'thumb' : 'other', n: id.length } }, '*');
  const pages = registry.createQuery('SELECT * FROM devices', 3);
  const twins = [];
  let count = 0;
  for (; pages.hasMoreResults; count++) twins.push(...(await pages.nextAsTwin()).result);
  assert.deepStrictEqual([twins.map((t) => t.deviceId), count], [all, 2]);
  const found = (await registry.createQuery(`SELECT * FROM devices WHERE tags.kind = 'thumb' AND tags.n = 10 AND status = 'enabled'`).nextAsTwin()).result;
  assert.deepStrictEqual(found.map((t) => t.deviceId), ['r-thumb-40', 'r-thumb-64']);
  await found[0].update({ tags: { kind: "o'clock" } }); // a twin of a query can be changed
  const selected = registry.createQuery('SELECT deviceId, tags.kind AS kind FROM devices WHERE tags.kind = "o\'clock" OR is_defined(tags.none)', 100);
  assert.deepStrictEqual((await selected.next()).result, [{ deviceId: 'r-thumb-40', kind: "o'clock" }]);
  assert.strictEqual(selected.hasMoreResults, false);
  const groups = (await registry.createQuery('SELECT tags.kind AS kind, COUNT() AS n, AVG(tags.n) AS mean FROM devices GROUP BY tags.kind').next()).result;
  assert.deepStrictEqual(groups, [{ kind: "o'clock", n: 1, mean: 10 }, { kind: 'other', n: 2, mean: 4.5 }, { kind: 'thumb', n: 1, mean: 10 }]);
  assert.deepStrictEqual((await registry.createQuery(`SELECT COUNT() AS n FROM devices WHERE authenticationType IN ['sas', 'none']`).next()).result, [{ n: 1 }]);
  await refused(registry.createQuery('SELECT * FROM devices WHERE tags.kind LIKE "t%"').next(), 'ArgumentError');
  console.log('ok queries');

  const statistics = (await registry.getRegistryStatistics()).responseBody;
  assert.deepStrictEqual([statistics.totalDeviceCount, statistics.enabledDeviceCount, statistics.disabledDeviceCount], [4, 3, 1]);
  for (const id of all) await registry.delete(id);
  await refused(registry.get('r-ca'), 'DeviceNotFoundError');
  console.log('ok statistics, delete');

  // A key that is not the policy's.
  const wrong = process.argv[2].replace(/SharedAccessKey=.*/, `SharedAccessKey=${Buffer.alloc(32).toString('base64')}`);
  await refused(Registry.fromConnectionString(wrong).list(), 'UnauthorizedError');
  console.log('ok unauthorized');
}

main().catch((err) => {
  console.log(err.stack || String(err));
  process.exit(1);
});
