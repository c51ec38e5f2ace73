// The management of a provisioning service through
// @azure/arm-deviceprovisioningservices, unmodified.
// Usage: node armdps.js BASE-URL TOKEN SERVICE ID-SCOPE CA-FILE PROVER (and NODE_EXTRA_CA_CERTS)
// PROVER is a command that prints a proof certificate for the code it is given.
'use strict';
const assert = require('assert');
const fs = require('fs');
const { execFileSync } = require('child_process');
const { IotDpsClient } = require('@azure/arm-deviceprovisioningservices');

const [base, token, service, idScope, caFile, prover] = process.argv.slice(2);

async function refused(promise, status, code) {
  try {
    await promise;
  } catch (err) {
    assert.strictEqual(err.statusCode, status, `${err.statusCode} ${err.message}`);
    if (code) assert.match(`${err.code} ${err.message}`, code);
    return;
  }
  assert.fail(`expected ${status}`);
}

async function all(pager) {
  const list = [];
  for await (const one of pager) list.push(one);
  return list;
}

async function main() {
  const credential = { getToken: async () => ({ token, expiresOnTimestamp: Date.now() + 3600e3 }) };
  const client = new IotDpsClient(credential, '00000000-0000-0000-0000-000000000000', { endpoint: base });
  const resource = client.iotDpsResource;
  const certificates = client.dpsCertificate;

  // The resource and its keys.
  assert.deepStrictEqual((await all(resource.listBySubscription())).map((s) => s.name), [service]);
  assert.deepStrictEqual((await all(resource.listByResourceGroup('rg'))).map((s) => s.name), [service]);
  const dps = await resource.get(service, 'rg');
  assert.strictEqual(dps.properties.idScope, idScope);
  assert.strictEqual(dps.properties.state, 'Active');
  assert.strictEqual(dps.properties.iotHubs.length, 1);
  await refused(resource.get('nobody', 'rg'), 404, /404000/);
  const [key] = await all(resource.listKeys(service, 'rg'));
  assert.strictEqual(key.keyName, 'provisioningserviceowner');
  assert.strictEqual((await resource.listKeysForKeyName(service, key.keyName, 'rg')).primaryKey, key.primaryKey);
  await refused(resource.listKeysForKeyName(service, 'nobody', 'rg'), 404, /404000/);
  console.log('ok resource, keys');

  // Linked hubs, read and sent back with a change.
  dps.properties.iotHubs[0].allocationWeight = 7;
  dps.properties.iotHubs.push({ connectionString: 'HostName=far.example.com;SharedAccessKeyName=registryReadWrite;SharedAccessKey=c2VjcmV0', location: 'far' });
  const put = await resource.beginCreateOrUpdateAndWait('rg', service, dps);
  assert.deepStrictEqual(put.properties.iotHubs.map((h) => [h.name, h.allocationWeight]), [['far.example.com', 1], [dps.properties.iotHubs[0].name, 7]]);
  assert.ok(!JSON.stringify(put).includes('c2VjcmV0'));
  put.properties.iotHubs = [];
  assert.strictEqual((await resource.beginCreateOrUpdateAndWait('rg', service, put)).properties.iotHubs.length, 1);
  await refused(resource.beginCreateOrUpdateAndWait('rg', 'nobody', put), 404, /404000/);
  put.properties.iotHubs = [{ connectionString: 'rubbish', location: 'far' }];
  await refused(resource.beginCreateOrUpdateAndWait('rg', service, put), 400, /400004/);
  console.log('ok linked hubs');

  // A CA: uploaded, its possession proven.
  const pem = fs.readFileSync(caFile);
  const upload = (certificate, options) => certificates.createOrUpdate('rg', service, 'acme', { properties: { certificate } }, options);
  const first = await upload(pem);
  assert.strictEqual(first.properties.isVerified, false);
  assert.match(first.properties.thumbprint, /^[0-9A-F]{40}$/);
  assert.ok(first.properties.expiry > new Date());
  const der = Buffer.from(pem.toString().replace(/-----[^-]+-----|\s/g, ''), 'base64');
  assert.strictEqual((await upload(der)).etag, first.etag);
  await refused(upload(Buffer.from('rubbish')), 400, /400123/);
  const withCode = await certificates.generateVerificationCode('acme', first.etag, 'rg', service);
  assert.match(withCode.properties.verificationCode, /^[0-9A-F]{48}$/);
  await refused(certificates.generateVerificationCode('acme', first.etag, 'rg', service), 412, /412001/);
  await refused(certificates.verifyCertificate('acme', withCode.etag, 'rg', service, { certificate: pem.toString('base64') }), 400);
  const proof = execFileSync('/bin/sh', ['-c', prover, 'prover', withCode.properties.verificationCode]);
  const verified = await certificates.verifyCertificate('acme', withCode.etag, 'rg', service, { certificate: proof.toString('base64') });
  assert.strictEqual(verified.properties.isVerified, true);
  console.log('ok proof of possession');

  assert.deepStrictEqual((await certificates.list('rg', service)).value.map((c) => c.name), ['acme']);
  const got = await certificates.get('acme', 'rg', service);
  assert.strictEqual(got.etag, verified.etag);
  assert.deepStrictEqual(Buffer.from(got.properties.certificate), der);
  await refused(certificates.get('nobody', 'rg', service), 404);
  await refused(certificates.delete('rg', first.etag, service, 'acme'), 412, /412001/);
  await certificates.delete('rg', verified.etag, service, 'acme');
  assert.deepStrictEqual((await certificates.list('rg', service)).value, []);
  console.log('ok list, get, delete');

  const bad = { getToken: async () => ({ token: 'wrong', expiresOnTimestamp: Date.now() + 3600e3 }) };
  await refused(new IotDpsClient(bad, '0', { endpoint: base }).dpsCertificate.list('rg', service), 401);
  console.log('ok unauthorized');
}

process.exitCode = 1; // for a promise that is never settled
main().then(() => {
  process.exitCode = 0;
}, (err) => {
  console.log(err.stack || String(err));
  process.exit(1);
});
